"""Drivers of assignment 3: functions of numbers, and a client against a small service of this file.

    isoflops    run_isoflops_optima -> arrays of budgets, sizes and losses
    numbers     an adapter that returns a number or a tuple of numbers
    service     calls of a client, what the service was sent, and what came back

Read next: `tests/hidden/scaling.py`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from .drivers import Inputs, SchemaError


def isoflops(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """The optimum of each compute budget."""
    optima = adapters.run_isoflops_optima([dict(run) for run in inputs["runs"]], inputs["method"])
    budgets = sorted(optima)
    pairs = np.array([[_number(value) for value in optima[budget]] for budget in budgets], dtype=np.float64)
    if pairs.shape != (len(budgets), 2):
        raise SchemaError("each compute budget must have (parameters, loss)")
    return {"budgets": np.array([_number(b) for b in budgets]), "sizes": pairs[:, 0], "losses": pairs[:, 1]}


def numbers(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """The numbers that an adapter returns for positional arguments; lists of numbers are given as tuples."""
    arguments = [tuple(a) if type(a) is list else a.copy() if hasattr(a, "copy") else a for a in inputs["arguments"]]
    result = getattr(adapters, inputs["function"])(*arguments)
    values = result if isinstance(result, (tuple, list, np.ndarray)) else [result]
    return {"value": np.array([_number(value) for value in values], dtype=np.float64)}


def _number(value: Any) -> float:
    if isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return float(value)
    raise SchemaError(f"expected a number; got {type(value).__name__}")


def service(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Each call's result or exception as plain values, and the requests [method, path, key, body] that came in."""
    seen: list[Any] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(inputs["answers"], seen))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    before = os.environ.get("A3_API_KEY")
    os.environ["A3_API_KEY"] = inputs["key"]
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        results = [_outcome(adapters, url, call) for call in inputs["calls"]]
    finally:
        server.shutdown()
        server.server_close()
        os.environ.pop("A3_API_KEY")
        if before is not None:
            os.environ["A3_API_KEY"] = before
    return {"results": results, "seen": seen}


def _outcome(adapters: Any, url: str, call: list[Any]) -> dict[str, Any]:
    """One call of a new client."""
    try:
        value = getattr(adapters.run_scaling_service(url), call[0])(*call[1:])
        return {"value": json.loads(json.dumps(value, default=lambda message: message.model_dump(mode="json")))}
    except NotImplementedError:
        raise
    except Exception as error:
        return {"raised": [kind.__name__ for kind in type(error).__mro__], "text": str(error)[:500]}


def _handler(answers: dict[str, Any], seen: list[Any]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            try:
                value = json.loads(body) if body else None
            except ValueError:
                value = "(not JSON)"
            seen.append([self.command, self.path, self.headers["X-API-Key"], value])
            status, answer = answers.get(f"{self.command} {self.path}", [404, {"detail": "no such path"}])
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _answer

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    return Handler


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {
    function.__name__: function for function in (isoflops, numbers, service)
}

"""`cs336 chat --web`: a page in the browser, served by this machine to this machine.

    GET  /              the page; it loads nothing from anywhere else
    GET  /api/info      what the model is
    POST /api/reply     {messages, temperature, top_k, top_p, max_tokens, seed} -> server-sent events
                        note, token (one per token), end, error
    POST /api/tokens    {messages} -> every message as tokens with mask and probability

The browser stops a reply by closing the connection, which cancels it in the engine. Requests must name this host and
come from this page: another site open in the same browser cannot reach the model through it (DNS rebinding, cross-site
posts). Left out: accounts, encryption; put a proxy in front to serve others.

Read next: `page.js`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cs336_alignment.chat.replies import ChatModel, End, Note, Token
from cs336_systems.inference.sampling import SamplingParams

MAX_MESSAGES = 500
MAX_CHARACTERS = 200_000
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
}  # fmt: skip


def make_app(chat: ChatModel, *, hosts: frozenset[str]) -> Any:
    """The web application.

    Args:
        chat: answers; closed by the caller.
        hosts: names by which requests may call this host, without port; empty lets all through.

    Raises:
        ImportError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, Response, StreamingResponse
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError(
            "the page needs starlette and uvicorn; install them with: pip install starlette uvicorn"
        ) from error

    def file(request: Any) -> Any:
        name, kind = _FILES[request.url.path]
        return Response(Path(__file__).with_name(name).read_bytes(), media_type=kind)

    def info(request: Any) -> Any:
        return JSONResponse(describe(chat))

    async def reply(request: Any) -> Any:
        messages, values = await _body(request)
        events = chat.reply(messages, read_params(values))  # wrong requests are refused here, before the stream
        return StreamingResponse(_stream(events), media_type="text/event-stream")

    async def tokens(request: Any) -> Any:
        messages, _ = await _body(request)
        views = await asyncio.to_thread(chat.token_view, messages)
        return JSONResponse([[dataclasses.asdict(token) for token in view] for view in views])

    def refused(request: Any, error: Exception) -> Any:
        return JSONResponse({"error": str(error)}, status_code=400)

    routes = [Route(path, file) for path in _FILES]
    routes += [
        Route("/api/info", info),
        Route("/api/reply", reply, methods=["POST"]),
        Route("/api/tokens", tokens, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={ValueError: refused, TypeError: refused})
    return _Guard(app, hosts)


class _Guard:
    """Refuses requests under another host's name or from another site's page; adds the headers."""

    def __init__(self, app: Any, hosts: frozenset[str]):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or (self.hosts and urlsplit(f"//{host}").hostname not in self.hosts):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this page answers its own host only"})
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def describe(chat: ChatModel) -> dict[str, Any]:
    """What the page shows of the model."""
    return {
        "name": chat.name, "style": chat.style.name, "tools": chat.style.chat is not None,
        "parameters": sum(parameter.numel() for parameter in chat.model.parameters()),
        "context_length": chat.model.config.context_length, "vocab_size": chat.tokenizer.vocab_size,
        "running": chat.engine.running,
    }  # fmt: skip


async def _body(request: Any) -> tuple[list[Any], dict[str, Any]]:
    """The messages and everything else of a request, within limits.

    Raises:
        ValueError: not JSON, no list of messages, or too many of them.
    """
    try:
        body = json.loads(await request.body())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the request is not JSON: {error}") from error
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list):
        raise ValueError("the request needs a list of messages")
    size = len(json.dumps(messages))
    if len(messages) > MAX_MESSAGES or size > MAX_CHARACTERS:
        raise ValueError(
            f"{len(messages)} messages with {size:,} characters; at most {MAX_MESSAGES} and {MAX_CHARACTERS:,}; "
            "begin a new conversation"
        )
    return messages, {key: value for key, value in body.items() if key != "messages"}


def read_params(values: dict[str, Any]) -> SamplingParams:
    """Sampling parameters of a request.

    Raises:
        ValueError: an unknown name, a value of another type or out of range.
    """
    kinds = {"temperature": (int, float), "top_p": (int, float), "top_k": int, "max_tokens": int, "seed": int}
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"unknown setting {name!r}; known are {', '.join(kinds)}")
        if isinstance(value, bool) or not (value is None or isinstance(value, kinds[name])):  # type: ignore[arg-type]
            raise ValueError(f"{name} must be a number; got {value!r}")
    return SamplingParams(**{name: value for name, value in values.items() if value is not None})


async def _stream(events: Iterator[Token | Note | End]) -> AsyncIterator[str]:
    """Server-sent events of a reply; a closed connection ends it in the engine too."""
    nothing = object()
    waiting: asyncio.Task[Any] | None = None
    try:
        while True:
            waiting = asyncio.create_task(asyncio.to_thread(next, events, nothing))
            event = await asyncio.shield(waiting)
            if event is nothing:
                return
            name = type(event).__name__.lower()
            yield f"event: {name}\ndata: {json.dumps(dataclasses.asdict(event))}\n\n"
    except Exception as error:
        yield f"event: error\ndata: {json.dumps({'text': str(error)})}\n\n"
    finally:
        await asyncio.shield(asyncio.create_task(_close(waiting, events)))


async def _close(waiting: asyncio.Task[Any] | None, events: Any) -> None:
    """Wait for the token under way, then close the iterator; it cannot be closed while it runs."""
    if waiting is not None:
        await asyncio.wait([waiting])
    with contextlib.suppress(ValueError):  # it runs on in its thread and is closed as soon as nobody holds it
        await asyncio.to_thread(events.close)


def serve(chat: ChatModel, *, host: str, port: int, announce: Any = print) -> None:
    """Serve the page until interrupted.

    Args:
        chat: answers.
        host: 127.0.0.1 serves this machine only; 0.0.0.0 everybody who can reach it.
        port: 0 takes a free one.
        announce: called with the address once it is bound.

    Raises:
        ImportError: uvicorn or starlette is not installed.
        OSError: the port is taken.
    """
    local = host in ("127.0.0.1", "localhost", "::1")
    app = make_app(chat, hosts=frozenset({"127.0.0.1", "localhost", "::1"}) if local else frozenset())
    try:
        import uvicorn
    except ImportError as error:
        raise ImportError("the page needs uvicorn; install it with: pip install uvicorn") from error

    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    shown = f"[{host}]" if ":" in host else host
    announce(f"http://{shown}:{listener.getsockname()[1]}")
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="off")
    server = uvicorn.Server(config)
    leave = server.handle_exit

    def end_replies_and_leave(*arguments: Any) -> None:
        chat.engine.stop()  # else the server would wait for the replies under way
        leave(*arguments)

    server.handle_exit = end_replies_and_leave  # type: ignore[assignment, method-assign]
    with listener:
        server.run(sockets=[listener])

"""`cs336 scaling serve`, `client` and `admin`: thin, over `app.py`, `client.py` and `admin.py`.

Settings come from the environment (`config.py` lists them); flags of `serve` go before them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cs336_basics.runs.command_line import parse, print_result

NEEDED = "the training service needs FastAPI and SQLAlchemy: pip install 'cs336[scaling]'"


@dataclass(frozen=True)
class Serve:
    """Start the training service; Ctrl-C stops it, and runs under way go on."""

    host: str = "127.0.0.1"
    """address to listen on; 0.0.0.0 for every network"""
    port: int = 8336
    """port; 0 for any free one"""
    database: str | None = None
    """SQLAlchemy URL, such as sqlite:///runs/scaling/service.db or postgresql+psycopg://user@host/name"""
    executor: Literal["law", "bank", "local", "ray", "slurm", "none"] | None = None
    """who runs: a stated law, a bank of measured runs, this machine, a cluster; none leaves the queue alone"""
    profile: Literal["course", "micro"] | None = None
    """ranges of the old API: the course's, or a millionth of it"""
    train_tokens: str | None = None
    """token file that real runs train on"""
    valid_tokens: str | None = None
    """token file that real runs are validated on"""


def serve(argv: list[str]) -> None:
    """`cs336 scaling serve`."""
    o = parse(Serve, argv, "scaling serve", example="scaling serve --executor law --port 8336")
    try:
        import uvicorn

        from cs336_scaling import app, config, db
    except ImportError as error:
        raise ImportError(f"{NEEDED} ({error})") from error
    listener = socket.create_server((o.host, o.port))
    # An answer is written in two parts; without this the second may wait for a far client's acknowledgement of the first.
    # asyncio sees to it only for sockets that it made itself; connections inherit it from here.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"http://{'127.0.0.1' if o.host == '0.0.0.0' else o.host}:{listener.getsockname()[1]}"
    given = {
        "EXECUTOR": o.executor,
        "PROFILE": o.profile,
        "TRAIN_TOKENS": o.train_tokens,
        "VALID_TOKENS": o.valid_tokens,
    }
    os.environ.update({name: value for name, value in given.items() if value is not None})
    if o.database is not None:
        os.environ[f"DATABASE_URL_{os.environ.get('DB_ENV', 'dev').upper()}"] = o.database
    os.environ.setdefault("API_BASE_URL", url)
    if os.environ.setdefault("INTERNAL_API_KEY", secrets.token_urlsafe(32)) == "":
        raise ValueError("INTERNAL_API_KEY is empty; unset it for a random one, or set a secret")
    settings = config.settings_from_env()
    db.init_db()
    server = uvicorn.Server(
        # No access log: the old API's addresses hold keys.
        uvicorn.Config(app.create_app(dispatch=settings.executor != "none"), access_log=False, log_level="warning")
    )
    print(f"training service on {url} (executor {settings.executor}); Ctrl-C stops it", flush=True)
    server.run(sockets=[listener])


@dataclass(frozen=True)
class ClientCommand:
    """Talk to a training service; the key is in the environment variable A3_API_KEY."""

    action: Annotated[
        Literal["budget", "submit", "list", "show", "final", "handed-in", "loss", "previous-runs"], tyro.conf.Positional
    ]
    """budget; submit FILE (a TrainingConfig as JSON); list; show ID; final FILE (JSON with training_config and
    predicted_final_loss); handed-in; loss NAME=VALUE ...; previous-runs"""
    arguments: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """what the action needs"""
    url: str | None = None
    """address of the service; API_BASE_URL, or http://127.0.0.1:8336 by default"""


def client(argv: list[str]) -> None:
    """`cs336 scaling client`."""
    o = parse(ClientCommand, argv, "scaling client", example="scaling client submit config.json")
    try:
        from cs336_scaling.client import API_BASE_URL, Client
    except ImportError as error:
        raise ImportError(f"{NEEDED} ({error})") from error
    service = Client(o.url or os.environ.get("API_BASE_URL", API_BASE_URL))
    if o.action in ("submit", "final", "show") and len(o.arguments) != 1:
        raise ValueError(f"client {o.action} takes one argument; got {len(o.arguments)}")
    result: Any
    if o.action in ("submit", "final"):
        value = json.loads(Path(o.arguments[0]).read_text(encoding="utf-8"))
        result = service.submit_experiment(value) if o.action == "submit" else service.save_final_submission_json(value)
    elif o.action == "show":
        result = service.get_experiment(int(o.arguments[0]))
    elif o.action == "loss":
        result = service.get_loss(**_assignments(o.arguments))
    else:
        calls = {
            "budget": service.get_budget, "list": service.list_experiments, "handed-in": service.get_final_submission,
            "previous-runs": service.previous_runs,
        }  # fmt: skip
        result = calls[o.action]()
    print(json.dumps(_plain(result), indent=2))


def _assignments(words: tuple[str, ...]) -> dict[str, float]:
    """NAME=VALUE words."""
    values: dict[str, float] = {}
    for word in words:
        name, sign, text = word.partition("=")
        try:
            number = float(text)
        except ValueError as error:
            raise ValueError(f"expected NAME=NUMBER, such as d_model=256; got {word!r}") from error
        values[name] = int(number) if number.is_integer() and name != "learning_rate" else number
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


@dataclass(frozen=True)
class AdminCommand:
    """Administer the service's database (chosen as for `serve`, by DB_ENV and DATABASE_URL_DEV or _PROD)."""

    action: Annotated[Literal["migrate", "seed", "key", "export", "requeue"], tyro.conf.Positional]
    """migrate: create or update the tables; seed CSV: enter learners; key SUNET_ID: a new key for a learner;
    export CSV: write the grades; requeue ID ...: queue failed experiments again"""
    arguments: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """what the action needs"""
    keys_out: Path = Path("keys.csv")
    """new file for the keys of `seed`, which are nowhere else"""
    database: str | None = None
    """SQLAlchemy URL, before the environment's"""


def admin(argv: list[str]) -> None:
    """`cs336 scaling admin`."""
    o = parse(AdminCommand, argv, "scaling admin", example="scaling admin seed learners.csv --keys-out keys.csv")
    try:
        from cs336_scaling import admin as actions
        from cs336_scaling import db
        from cs336_scaling.config import read_settings
        from cs336_scaling.scheduler.queue import requeue_failed
    except ImportError as error:
        raise ImportError(f"{NEEDED} ({error})") from error
    if o.database is not None:
        os.environ[f"DATABASE_URL_{os.environ.get('DB_ENV', 'dev').upper()}"] = o.database
    os.environ.setdefault("INTERNAL_API_KEY", "not used by admin")
    settings = read_settings(os.environ)
    db.init_db()
    factory = db.get_session_factory()
    if o.action in ("seed", "key", "export") and len(o.arguments) != 1:
        raise ValueError(f"admin {o.action} takes one argument; got {len(o.arguments)}")
    if o.action == "seed":
        number = actions.seed_users(factory, o.arguments[0], keys_out=o.keys_out)
        print_result({"learners": number, "keys": str(o.keys_out)}, as_json=False)
    elif o.action == "key":
        print(actions.give_new_key(factory, o.arguments[0]))
    elif o.action == "export":
        print_result({"learners": actions.export_grades(factory, o.arguments[0])}, as_json=False)
    elif o.action == "requeue":
        for text in o.arguments:
            requeue_failed(factory, int(text), settings)
            print(f"experiment {text} is queued again", file=sys.stderr)

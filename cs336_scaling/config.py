"""Settings of the training service; the one place of this package that reads the environment.

Every field of `Settings` is set by the variable of the same name in capitals, such as MAX_QUEUE_LENGTH=500. DB_ENV=dev
or prod chooses between DATABASE_URL_DEV (SQLite by default) and DATABASE_URL_PROD; INTERNAL_API_KEY, the secret
between the service and its workers, has to be set. Read next: `app.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

DEFAULT_DATABASE = "sqlite:///runs/scaling/service.db"
EDITIONS = ("2024", "2025", "2026")
PROFILES = ("course", "micro")
EXECUTORS = ("law", "bank", "local", "ray", "slurm", "none")


@dataclass(frozen=True)
class Settings:
    """How a deployment runs."""

    database_url: str
    """SQLAlchemy URL: sqlite:///path or postgresql+psycopg://..."""
    internal_api_key: str
    """secret that workers send"""
    api_base_url: str = "http://127.0.0.1:8336"
    """where workers and the client find the service"""
    max_concurrent_workers: int = 100
    """runs at the same time"""
    total_budget_seconds: float = 43200.0
    """training time per learner (2026)"""
    total_budget_flops: int = 2 * 10**18
    """FLOPs per learner (2024, 2025)"""
    edition: str = "2025"
    """wording of the old API's messages: 2024 or 2025"""
    profile: str = "course"
    """ranges of the old API: the course's, or micro, a millionth of it"""
    executor: str = "law"
    """who answers: law (a stated formula), bank, local, ray, slurm; none leaves the queue to another process"""
    bank_path: str = ""
    """JSON lines of measured runs, for the executor bank; empty for the one that ships with the package"""
    train_tokens: str = ""
    """token file that real runs train on"""
    valid_tokens: str = ""
    """token file that real runs are validated on"""
    runs_dir: str = "runs/scaling/jobs"
    """folder of real runs"""
    lease_seconds: float = 150.0
    """a run whose worker has been silent for so long is given up; workers report at least every 60 s"""
    max_attempts: int = 3
    """how often a run is started before it counts as failed"""
    max_queue_length: int = 10_000
    """queued experiments of all learners"""
    max_body_bytes: int = 65_536
    """largest request body"""
    rate_limit_per_s: float = 200.0
    """requests per second and key; 0 for no limit"""
    rate_limit_burst: int = 2_000
    """requests that a key may make at once"""
    loss_wait_seconds: float = 600.0
    """how long the old API's /loss waits for a run that another request has started"""

    def __post_init__(self) -> None:
        for name, allowed in (("edition", EDITIONS), ("profile", PROFILES), ("executor", EXECUTORS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name.upper()} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        for name in ("total_budget_seconds", "total_budget_flops", "rate_limit_per_s", "max_concurrent_workers"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name.upper()} must not be negative; got {getattr(self, name)}")
        for name in ("lease_seconds", "max_attempts", "max_queue_length", "max_body_bytes", "rate_limit_burst"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name.upper()} must be positive; got {getattr(self, name)}")


@functools.cache
def settings_from_env() -> Settings:
    """The settings of this process, read once (`settings_from_env.cache_clear()` reads them again).

    Raises:
        KeyError: INTERNAL_API_KEY, or the URL that DB_ENV=prod asks for, is not set.
        ValueError: a value that cannot be used.
    """
    return read_settings(os.environ)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from a mapping of variables; raises as `settings_from_env`."""
    database = environment.get("DB_ENV", "dev")
    if database not in ("dev", "prod"):
        raise ValueError(f"DB_ENV must be dev or prod; got {database!r}")
    url = environment["DATABASE_URL_PROD"] if database == "prod" else environment.get("DATABASE_URL_DEV")
    values: dict[str, Any] = {
        "database_url": url or DEFAULT_DATABASE, "internal_api_key": environment["INTERNAL_API_KEY"]
    }  # fmt: skip
    for field in dataclasses.fields(Settings):
        text = environment.get(field.name.upper())
        if text is not None and field.name not in values:
            values[field.name] = _converted(field.name.upper(), text, type(field.default))
    return Settings(**values)


def key_pepper() -> str:
    """KEY_PEPPER: a secret outside the database that goes into every key's hash; empty by default."""
    return os.environ.get("KEY_PEPPER", "")


def _converted(name: str, text: str, kind: type) -> Any:
    """A number may be written as 2e18; an integer has to be whole."""
    if kind is str:
        return text
    try:
        number = Decimal(text)
        if not number.is_finite() or (kind is int and number != int(number)):
            raise ValueError(text)
    except (InvalidOperation, ValueError) as error:
        expected = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {expected}; got {text!r}") from error
    return kind(number)

"""A fresh database and an application on it, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cs336_scaling import config, db
from cs336_scaling.app import create_app
from cs336_scaling.config import Settings, settings_from_env
from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.db.tables import UserTable
from tests.unit.scaling_service.postgres_server import PostgresServer

NUMBERS = itertools.count()


def clear_caches() -> None:
    if db.get_engine.cache_info().currsize:
        db.get_engine().dispose()
    for cached in (db.get_session_factory, db.get_engine, config.settings_from_env):
        cached.cache_clear()


class Service:
    """A configured database; `client` is an application without the loop that starts runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        self.url, self._monkeypatch = url, monkeypatch
        monkeypatch.setenv("INTERNAL_API_KEY", "the workers' secret")
        monkeypatch.setenv("DB_ENV", "dev")
        self.configure(DATABASE_URL_DEV=url)
        db.init_db()

    def configure(self, **variables: object) -> None:
        """Set variables and read the settings again."""
        for name, value in variables.items():
            self._monkeypatch.setenv(name, str(value))
        clear_caches()

    @property
    def settings(self) -> Settings:
        return settings_from_env()

    @property
    def sessions(self) -> SessionFactory:
        return db.get_session_factory()

    def client(self, **options: Any) -> TestClient:
        return TestClient(create_app(**options), raise_server_exceptions=False)

    def add_user(self, sunet_id: str = "learner", key: str | None = None) -> dict[str, str]:
        """Enter a learner; returns the headers that name them."""
        number = next(NUMBERS)
        user = UserTable(sunet_id=sunet_id, api_key=key or f"{10_000_000 + number}")
        with self.sessions() as session:
            session.add(user)
            session.commit()
        return {"X-API-Key": user.api_key}


@pytest.fixture(scope="session")
def postgres(require: Callable[[str], None]) -> Iterator[PostgresServer]:
    require("postgresql")
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/service.db"
    return request.getfixturevalue("postgres").create_database(f"test_{next(NUMBERS)}")


@pytest.fixture
def service(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """On both databases."""
    clear_caches()
    yield Service(monkeypatch, database_url)
    clear_caches()


@pytest.fixture
def sqlite_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """On SQLite only, for what does not depend on the database."""
    clear_caches()
    yield Service(monkeypatch, f"sqlite:///{tmp_path}/service.db")
    clear_caches()

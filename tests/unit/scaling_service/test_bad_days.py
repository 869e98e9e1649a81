"""A database that goes away and comes back, too many requests, malformed CSV files, settings that cannot be."""

from __future__ import annotations

import csv
import os
import signal
import stat

import pytest
from sqlalchemy import inspect, select

from cs336_scaling.admin import export_grades, give_new_key, read_learners, seed_users
from cs336_scaling.config import read_settings
from cs336_scaling.db.engine import migrate, open_engine
from cs336_scaling.db.tables import Base, UserTable
from cs336_scaling.executors.law import StatedLaw
from cs336_scaling.rate_limit import RateLimiter
from cs336_scaling.scheduler.dispatcher import Dispatcher
from tests.unit.scaling_service.configs import body_of
from tests.unit.scaling_service.conftest import Service, clear_caches
from tests.unit.scaling_service.postgres_server import PostgresServer
from tests.unit.scaling_service.test_scheduler import Recorder

LOSS = {
    "d_model": 64, "num_layers": 2, "num_heads": 2, "batch_size": 128, "learning_rate": 0.001, "train_flops": 10**13
}  # fmt: skip


@pytest.fixture
def own_postgres(require):
    """A server that a test may stop."""
    require("postgresql")
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


def test_a_database_that_goes_and_comes_back(own_postgres, monkeypatch):
    clear_caches()
    service = Service(monkeypatch, own_postgres.create_database("gone"))
    key = service.add_user()["X-API-Key"]
    client, headers = service.client(), {"X-API-Key": key}
    dispatcher = Dispatcher(service.sessions, Recorder(), service.settings)
    assert client.post("/submit", headers=headers, json=body_of(10)).status_code == 200
    dispatcher.start(interval_s=0.05)
    own_postgres.stop(signal.SIGQUIT)
    away = client.post("/submit", headers=headers, json=body_of(11))
    assert away.status_code == 503 and "nothing was charged" in away.json()["detail"]
    assert "Retry-After" in away.headers
    old = client.get("/loss", params={**LOSS, "api_key": key})
    assert old.status_code == 503 and set(old.json()) == {"message"}
    assert key not in away.text + old.text
    own_postgres.start()
    assert client.get("/budget", headers=headers).json()["used_seconds"] == 10.0
    assert client.post("/submit", headers=headers, json=body_of(11)).status_code == 200
    dispatcher.stop()
    clear_caches()


def test_too_many_requests(sqlite_service):
    sqlite_service.configure(RATE_LIMIT_PER_S=0.001, RATE_LIMIT_BURST=3)
    mine, other = sqlite_service.add_user("a", "12345678"), sqlite_service.add_user("b")
    client = sqlite_service.client()
    assert [client.get("/budget", headers=mine).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    refused = client.get("/budget", headers=mine)
    assert "detail" in refused.json() and int(refused.headers["Retry-After"]) > 100
    assert set(client.get("/loss", params={**LOSS, "api_key": "12345678"}).json()) == {"message"}
    assert client.get("/budget", headers=other).status_code == 200
    guesses = [client.get("/budget", headers={"X-API-Key": f"{n:08}"}).status_code for n in range(5)]
    assert guesses == [401, 401, 401, 429, 429], "keys cannot be guessed at speed"


def test_token_buckets_refill():
    now = [0.0]
    limiter = RateLimiter(rate=2, burst=3, clock=lambda: now[0], max_callers=5)
    assert [limiter.wait_seconds("a") for _ in range(4)] == [0, 0, 0, 0.5]
    now[0] = 0.25
    assert limiter.wait_seconds("a") == 0.25
    now[0] = 0.5
    assert [limiter.wait_seconds("a"), limiter.wait_seconds("a")] == [0, 0.5]
    now[0] = 100.0
    for number in range(20):
        limiter.wait_seconds(f"b{number}")
    assert limiter.wait_seconds("a") == 0 and RateLimiter(rate=0, burst=1).wait_seconds("x") == 0


BAD_CSV = {
    "empty": (b"", "must begin with"),
    "other header": (b"user,key\na,12345678\n", "sunet_id,api_key"),
    "spaces in the header": (b"sunet_id, api_key\na,12345678\n", "must begin with"),
    "a field too many": (b"sunet_id,api_key\na,12345678,x\n", "line 2: expected 2 fields, got 3"),
    "blank line": (b"sunet_id,api_key\na,12345678\n\nb,12345679\n", "line 3"),
    "short key": (b"sunet_id,api_key\na,1234567\n", "line 2: the key must have 8 digits"),
    "no name": (b"sunet_id,api_key\n,12345678\n", "is no sunet_id"),
    "a formula": (b"sunet_id,api_key\n=1+1,12345678\n", "is no sunet_id"),
    "name twice": (b"sunet_id,api_key\na,12345678\na,12345679\n", "sunet_id occur more than once, such as a"),
    "key twice": (b"sunet_id,api_key\na,12345678\nb,12345678\n", "api_key occur more than once"),
    "binary": (b"\xff\xfe\x00", "not a CSV file"),
    "open quote": (b'sunet_id,api_key\n"a,12345678\n', "not a CSV file"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_malformed_csv_enters_nobody(sqlite_service, tmp_path, case):
    content, text = BAD_CSV[case]
    (tmp_path / "learners.csv").write_bytes(content)
    with pytest.raises(ValueError) as refusal:
        seed_users(sqlite_service.sessions, tmp_path / "learners.csv", keys_out=tmp_path / "keys.csv")
    assert text in str(refusal.value) and "1234567" not in str(refusal.value)
    with sqlite_service.sessions() as session:
        assert session.scalars(select(UserTable)).all() == []
    assert not (tmp_path / "keys.csv").exists()


def test_seeding_and_grades(service, tmp_path):
    (tmp_path / "learners.csv").write_text("\ufeffsunet_id,api_key\r\nada,12345678\r\nbob,\r\n", encoding="utf-8")
    assert seed_users(service.sessions, tmp_path / "learners.csv", keys_out=tmp_path / "keys.csv") == 2
    assert stat.S_IMODE(os.stat(tmp_path / "keys.csv").st_mode) == 0o600
    keys = dict(read_learners(tmp_path / "keys.csv"))
    assert keys["ada"] == "12345678" and len(keys["bob"]) == 49
    client = service.client(source=StatedLaw())
    headers = {"X-API-Key": keys["bob"]}
    client.post("/submit", headers=headers, json=body_of(10))
    client.get("/loss", params={**LOSS, "api_key": keys["bob"]})
    final = {"training_config": body_of(20), "predicted_final_loss": 3.125}
    client.post("/final_submission", headers=headers, json=final)
    assert export_grades(service.sessions, tmp_path / "grades.csv") == 2
    with open(tmp_path / "grades.csv", newline="") as file:
        ada, bob = csv.DictReader(file)
    assert (ada["sunet_id"], ada["used_seconds"], ada["used_flops"], ada["final_config"]) == ("ada", "0.0", "0", "")
    assert (bob["used_seconds"], bob["used_flops"], bob["experiments"]) == ("10.0", str(10**13), "1")
    assert (bob["loss_queries"], bob["predicted_final_loss"]) == ("1", "3.125")
    with pytest.raises(ValueError, match="2 learners already"):
        seed_users(service.sessions, tmp_path / "learners.csv", keys_out=tmp_path / "again.csv")
    fresh = give_new_key(service.sessions, "bob")
    assert client.get("/budget", headers=headers).status_code == 401
    assert client.get("/budget", headers={"X-API-Key": fresh}).json()["used_seconds"] == 10.0


def test_migrations_make_the_schema_of_the_models(database_url):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = open_engine(database_url)
    migrate(engine)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, Base.metadata) == []
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    engine.dispose()


def test_settings_are_checked():
    base = {"INTERNAL_API_KEY": "x"}
    with pytest.raises(KeyError, match="INTERNAL_API_KEY"):
        read_settings({})
    with pytest.raises(KeyError, match="DATABASE_URL_PROD"):
        read_settings({**base, "DB_ENV": "prod"})
    settings = read_settings({**base, "TOTAL_BUDGET_FLOPS": "1e19", "DATABASE_URL_DEV": "sqlite:///a.db"})
    assert settings.total_budget_flops == 10**19 and settings.total_budget_seconds == 43200.0
    assert settings.database_url == "sqlite:///a.db" and read_settings(base).database_url.startswith("sqlite")
    for name, value in {
        "EDITION": "2023", "EXECUTOR": "magic", "MAX_ATTEMPTS": "0", "MAX_QUEUE_LENGTH": "2.5", "DB_ENV": "test",
        "LEASE_SECONDS": "soon", "TOTAL_BUDGET_FLOPS": "nan", "RATE_LIMIT_PER_S": "-1",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            read_settings({**base, name: value})
    for url in ("sqlite://", "mysql://x/y"):
        with pytest.raises(ValueError, match=r"file|mysql"):
            open_engine(url)

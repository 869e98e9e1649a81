"""Transactions that share a commit: each its own verdict, one trip to the disk; read back with plain sqlite3."""

from __future__ import annotations

import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from sqlalchemy import event, insert
from sqlalchemy.exc import IntegrityError, OperationalError

from cs336_scaling import db
from cs336_scaling.admin import give_new_key
from cs336_scaling.db import group_commit
from cs336_scaling.db.engine import writing
from cs336_scaling.db.group_commit import write_together
from cs336_scaling.db.tables import UserTable
from tests.unit.scaling_service.configs import body_of
from tests.unit.scaling_service.kill_harness import wait_until


def learners(service) -> list[str]:
    """Names in the database, as another program sees them."""
    with sqlite3.connect(service.url.removeprefix("sqlite:///")) as connection:
        found = [name for (name,) in connection.execute("SELECT sunet_id FROM users ORDER BY 1")]
    connection.close()
    return found


def enter(name: str, then: Exception | None = None):
    """A work that writes a learner, and perhaps raises after that."""

    def work(connection) -> str:
        connection.execute(insert(UserTable.__table__), {"sunet_id": name, "api_key_hash": name, "used_flops": 0})
        if then is not None:
            raise then
        return name.upper()

    return work


def together(service, works: list) -> list:
    """Results or exceptions of works of which the first leads a group of its own, and all others one group."""
    line = group_commit._line(str(db.get_engine().url))
    grouped = service.url.startswith("sqlite")
    with ThreadPoolExecutor(len(works)) as pool:
        with writing(service.sessions):  # nobody else can begin
            calls = [pool.submit(write_together, service.sessions, works[0])]
            if grouped:
                wait_until(lambda: line.leader.locked() and not line.waiting, "the first to lead")
            calls += [pool.submit(write_together, service.sessions, work) for work in works[1:]]
            if grouped:
                wait_until(lambda: len(line.waiting) == len(works) - 1, "the others to line up")
        return [call.exception() or call.result() for call in calls]


def test_a_refusal_is_undone_alone(service):
    service.add_user("f")
    refusal = ValueError("no")
    works = [enter("a"), enter("b", refusal), enter("c"), enter("d", KeyError("d")), enter("f"), enter("e")]
    first, second, third, fourth, known, last = together(service, works)
    assert (first, second, third, last) == ("A", refusal, "C", "E") and isinstance(fourth, KeyError)
    assert isinstance(known, IntegrityError)
    with service.sessions() as session:
        assert {name for name in "abcdef" if session.get(UserTable, name)} == {"a", "c", "e", "f"}


def test_those_who_wait_share_a_commit(sqlite_service):
    commits = []
    event.listen(db.get_engine(), "commit", lambda connection: commits.append(learners(sqlite_service)))
    names = [f"learner{number:02}" for number in range(20)]
    assert together(sqlite_service, [enter(name) for name in names]) == [name.upper() for name in names]
    assert learners(sqlite_service) == names
    assert commits == [[], [], names[:1]], "the holder's, the first one's, the others': before a commit nothing is seen"


def test_a_failing_database_undoes_the_whole_group(sqlite_service):
    broken = OperationalError("INSERT", {}, Exception("disk full"))
    outcomes = together(sqlite_service, [enter("leader"), enter("before"), enter("broken", broken), enter("after")])
    assert outcomes == ["LEADER", broken, broken, broken]
    assert learners(sqlite_service) == ["leader"]


def test_statements_are_compiled_once(sqlite_service, caplog):
    client, headers = sqlite_service.client(), sqlite_service.add_user()
    calls = [("POST", "/submit"), ("GET", "/experiment/1"), ("GET", "/experiments"), ("GET", "/budget")]
    with caplog.at_level(logging.INFO, logger="sqlalchemy.engine"):
        db.get_engine().echo = True
        for round_ in range(2):
            caplog.clear()
            for method, path in calls:
                body = body_of(10, seed=round_) if method == "POST" else None
                assert client.request(method, path, headers=headers, json=body).status_code == 200
    compiled = [said for said, note in pairwise(caplog.messages) if "generated in" in note or "no key" in note]
    assert any("cached since" in note for note in caplog.messages)
    assert [said for said in compiled if "SAVEPOINT" not in said] == [], "a savepoint's name is new each time"


def test_a_key_that_was_replaced_stops_at_once(service):
    client, old = service.client(), service.add_user("learner")
    assert client.post("/submit", headers=old, json=body_of(10)).status_code == 200
    assert client.get("/experiment/1", headers=old).status_code == 200
    new = {"X-API-Key": give_new_key(service.sessions, "learner")}
    assert client.get("/experiment/1", headers=old).status_code == 401
    assert client.get("/experiment/1", headers=new).json()["experiment_id"] == 1

"""Transactions that share a commit: each its own verdict, one trip to the disk; read back with plain sqlite3."""

from __future__ import annotations

import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from sqlalchemy import event, insert
from sqlalchemy.exc import OperationalError

from cs336_scaling import db
from cs336_scaling.admin import give_new_key
from cs336_scaling.db.engine import writing
from cs336_scaling.db.group_commit import write_together
from cs336_scaling.db.tables import UserTable
from tests.unit.scaling_service.configs import body_of


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
    """Run while another writer holds the database, so that all but the first leader line up; results or exceptions."""
    with ThreadPoolExecutor(len(works)) as pool:
        with writing(service.sessions):
            calls = [pool.submit(write_together, service.sessions, work) for work in works]
            threading.Event().wait(0.3)
        return [call.exception() or call.result() for call in calls]


def test_a_refusal_is_undone_alone(service):
    refusal = ValueError("no")
    works = [enter("a"), enter("b", refusal), enter("c"), enter("d", KeyError("d")), enter("e")]
    first, second, third, fourth, fifth = together(service, works)
    assert (first, second, third, fifth) == ("A", refusal, "C", "E") and isinstance(fourth, KeyError)
    with service.sessions() as session:
        assert {name for name in "abcde" if session.get(UserTable, name)} == {"a", "c", "e"}


def test_those_who_wait_share_a_commit(sqlite_service):
    commits = []
    event.listen(db.get_engine(), "commit", lambda connection: commits.append(learners(sqlite_service)))
    names = [f"learner{number:02}" for number in range(20)]
    assert together(sqlite_service, [enter(name) for name in names]) == [name.upper() for name in names]
    assert learners(sqlite_service) == names
    # The holder's, the first leader's and the others'; a thread that starts late may need one more.
    assert 2 <= len(commits) <= 5 and commits[0] == [], "before a commit nothing is seen"


def test_a_failing_database_undoes_the_whole_group(sqlite_service):
    broken = OperationalError("INSERT", {}, Exception("disk full"))
    works = [enter(f"first{number}") for number in range(3)]
    failed = together(sqlite_service, [enter("leader"), *works[:1], enter("broken", broken), *works[1:]])
    seen = learners(sqlite_service)
    for name, outcome in zip(["leader", "first0", "broken", "first1", "first2"], failed, strict=True):
        assert (name in seen) == (outcome == name.upper()), "what was told is what is stored"
        assert outcome in (name.upper(), broken)
    assert "broken" not in seen


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

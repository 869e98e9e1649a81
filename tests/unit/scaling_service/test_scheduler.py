"""Fair order, the life of an experiment, charges, leases and the worker API; the fair rule is written again here."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from cs336_scaling.db.tables import EventLogTable, ExperimentTable
from cs336_scaling.scheduler.dispatcher import Dispatcher
from cs336_scaling.scheduler.experiment_selector import select_experiments_for_dispatch
from cs336_scaling.scheduler.lost_runs import LeaseWatcher
from cs336_scaling.scheduler.queue import claim, finish, requeue_failed
from cs336_scaling.schemas import QueuedExperimentStatus, RunningExperimentStatus
from cs336_scaling.schemas.events import CompletedResult
from tests.unit.scaling_service.configs import body_of, config_of

START = datetime(2026, 5, 1, tzinfo=UTC)
WORKER = {"X-Internal-Key": "the workers' secret"}


def put(session, user: str, minute: float, number: int, *, running: bool = False) -> None:
    config, queued_at = config_of(30, seed=number), START + timedelta(minutes=minute)
    status = (
        RunningExperimentStatus(queued_at=queued_at, dispatched_at=queued_at, run_id=f"run{number}")
        if running
        else QueuedExperimentStatus(queued_at=queued_at)
    )
    session.add(
        ExperimentTable(
            user_sunet_id=user, training_config_unique_id=config.unique_id, training_config=config, status=status
        )
    )


def test_the_contracts_case(service):
    for user in ("user1", "user2", "user3"):
        service.add_user(user)
    with service.sessions() as session:
        for number, user in enumerate(["user2", "user2", "user3", "user3"]):
            put(session, user, -60, 100 + number, running=True)
        for index in range(10):
            for user, offset in (("user1", 10), ("user2", 19), ("user3", 9)):
                put(session, user, offset + index, 1000 * int(user[-1]) + index)
        session.commit()
        chosen = select_experiments_for_dispatch(session, max_concurrent_workers=9)
        assert [row.user_sunet_id for row in chosen.experiments] == ["user1", "user1", "user3", "user1", "user2"]
        assert (chosen.currently_running_jobs, chosen.zero_running_user_experiments) == (4, 1)


def test_no_free_worker(service):
    service.add_user("user1")
    with service.sessions() as session:
        put(session, "user1", 0, 1, running=True)
        put(session, "user1", 1, 2)
        session.commit()
        chosen = select_experiments_for_dispatch(session, max_concurrent_workers=1)
    assert (chosen.experiments, chosen.currently_running_jobs, chosen.zero_running_user_experiments) == ([], 1, 0)


def expected_order(rows: list[tuple[str, int, int, bool]], workers: int) -> list[int]:
    """The rule of the contract, as slowly as it is stated; rows are (user, minute, id, running)."""
    running = [row for row in rows if row[3]]
    queue = [row for row in rows if not row[3]]
    capacity = max(0, workers - len(running))

    def rank(row) -> int:
        place = sum(1 for other in queue if other[0] == row[0] and (other[1], other[2]) < (row[1], row[2]))
        return place + sum(1 for other in running if other[0] == row[0])

    return [row[2] for row in sorted(queue, key=lambda row: (rank(row), row[1], row[2]))[:capacity]]


def test_the_order_is_fair_on_random_queues(sqlite_service):
    users, draw = ["a", "b", "c", "d"], random.Random(3)
    for user in users:
        sqlite_service.add_user(user)
    for _ in range(15):
        with sqlite_service.sessions() as session:
            rows = []
            for number in range(draw.randrange(1, 25)):
                user, minute, running = draw.choice(users), draw.randrange(6), draw.random() < 0.2
                put(session, user, minute, number, running=running)
                session.flush()
                newest = session.scalars(select(ExperimentTable.id).order_by(ExperimentTable.id.desc())).first()
                rows.append((user, minute, newest, running))
            workers = draw.randrange(12)
            chosen = select_experiments_for_dispatch(session, max_concurrent_workers=workers)
            assert [row.id for row in chosen.experiments] == expected_order(rows, workers)
            session.rollback()


def submit(service, *seconds: int) -> dict[str, str]:
    headers = service.add_user()
    for seed, limit in enumerate(seconds):
        assert service.client().post("/submit", headers=headers, json=body_of(limit, seed=seed)).status_code == 200
    return headers


def used(service, headers) -> float:
    return service.client().get("/budget", headers=headers).json()["used_seconds"]


def test_the_life_of_an_experiment(service):
    headers, client = submit(service, 30), service.client()
    (job,) = claim(service.sessions, service.settings)
    assert claim(service.sessions, service.settings) == [], "claimed once"
    seen = client.get("/experiment/1", headers=headers).json()["status"]
    assert (seen["status_type"], seen["run_id"], seen["val_losses"]) == ("running", job.run_id, [])
    event = {"log_type": "validation_loss", "run_id": job.run_id, "val_losses": [5.0, 4.0]}
    answer = client.post("/internal/worker/1/event", headers=WORKER, json=event)
    assert answer.status_code == 204 and answer.content == b"" and "X-Run-Lost" not in answer.headers
    stale = client.post(
        "/internal/worker/1/event", headers=WORKER, json={**event, "run_id": "old", "val_losses": [1.0]}
    )
    assert stale.status_code == 204 and stale.headers["X-Run-Lost"] == "true"
    assert client.get("/experiment/1", headers=headers).json()["status"]["val_losses"] == [5.0, 4.0]
    assert used(service, headers) == 30.0
    result = {"result_type": "completed", "used_runtime_seconds": 12.0004, "val_losses": [5.0, 4.0, 3.5]}
    assert client.post("/internal/worker/1/finish", headers=WORKER, json=result).status_code == 204
    done = client.get("/experiment/1", headers=headers).json()["status"]
    assert (done["status_type"], done["val_losses"][-1], done["used_runtime_seconds"]) == ("completed", 3.5, 12.0004)
    assert used(service, headers) == 12.001, "milliseconds, rounded up"
    with service.sessions() as session:
        kinds = [row.event.log_type for row in session.scalars(select(EventLogTable).order_by(EventLogTable.id))]
    assert kinds == ["queued", "dispatched", "validation_loss", "validation_loss", "completed"]


def test_a_result_is_taken_once(service):
    headers, client = submit(service, 30), service.client()
    (job,) = claim(service.sessions, service.settings)
    named = {"result_type": "completed", "used_runtime_seconds": 5, "val_losses": [2.0], "run_id": job.run_id}
    assert client.post("/internal/worker/1/finish", headers=WORKER, json={**named, "run_id": "old"}).status_code == 204
    assert used(service, headers) == 30.0, "a result of another run is not used"
    for seconds in (5, 9):
        answer = client.post(
            "/internal/worker/1/finish", headers=WORKER, json={**named, "used_runtime_seconds": seconds}
        )
        assert answer.status_code == 204
    assert used(service, headers) == 5.0
    unnamed = {key: value for key, value in named.items() if key != "run_id"}
    assert client.post("/internal/worker/1/finish", headers=WORKER, json=unnamed).status_code == 500


@pytest.mark.parametrize(
    ("seconds", "reason", "charged"),
    [
        (30, {"reason": "timeout", "partial_val_losses": [3.0]}, 30.0),
        (99, {"reason": "timeout", "partial_val_losses": []}, 30.0),
        (0.2, {"reason": "unexpected", "failure": "loss became nan"}, 1.0),
        (0, {"reason": "unexpected", "failure": "no machine"}, 0.0),
    ],
)
def test_a_failed_run_is_charged_for_what_it_ran(service, seconds, reason, charged):
    headers, client = submit(service, 30), service.client()
    claim(service.sessions, service.settings)
    body = {"result_type": "failed", "used_runtime_seconds": seconds, "reason": reason}
    assert client.post("/internal/worker/1/finish", headers=WORKER, json=body).status_code == 204
    assert client.get("/experiment/1", headers=headers).json()["status"]["reason"] == reason
    assert used(service, headers) == charged


def test_workers_need_the_secret_and_an_experiment(sqlite_service):
    client = sqlite_service.client()
    event = {"log_type": "run_heartbeat", "run_id": "x", "elapsed_seconds": 1}
    for headers in ({}, {"X-Internal-Key": "wrong"}, {"X-Internal-Key": "\u00e9".encode()}):
        assert client.post("/internal/worker/1/event", headers=headers, json=event).status_code == 401
        assert client.post("/internal/worker/1/finish", headers=headers, json={}).status_code == 401
    missing = client.post("/internal/worker/7/event", headers=WORKER, json=event)
    assert (missing.status_code, missing.json()) == (404, {"detail": "not found"})
    assert client.post("/internal/worker/7/event", headers=WORKER, json={"log_type": "party"}).status_code == 422
    bad = {"result_type": "completed", "used_runtime_seconds": 1, "val_losses": ["NaN"]}
    assert client.post("/internal/worker/7/finish", headers=WORKER, json=bad).status_code == 422


class Recorder:
    """An executor that only notes what it was given."""

    def __init__(self) -> None:
        self.jobs: list = []
        self.dead: list[tuple[int, str]] = []
        self.broken = False

    def start(self, job) -> None:
        if self.broken:
            raise OSError("no process")
        self.jobs.append(job)

    def dead_runs(self) -> list[tuple[int, str]]:
        dead, self.dead = self.dead, []
        return dead

    def close(self) -> None:
        pass


class Clock:
    """A monotonic clock that stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop(service):
    """(dispatcher, executor, clock) with leases of 100 s."""
    clock, executor = Clock(), Recorder()
    return (
        Dispatcher(service.sessions, executor, service.settings, watcher=LeaseWatcher(100, clock=clock)),
        executor,
        clock,
    )


def test_a_silent_run_is_queued_again_and_its_late_result_ignored(service, loop):
    dispatcher, executor, clock = loop
    headers, client = submit(service, 30), service.client()
    dispatcher.tick()
    first = executor.jobs[0]
    for now in (0, 60, 99):
        clock.now = now
        assert dispatcher.tick() == 0
    beat = {"log_type": "run_heartbeat", "run_id": first.run_id, "elapsed_seconds": 1}
    client.post("/internal/worker/1/event", headers=WORKER, json=beat)
    clock.now = 150
    assert dispatcher.tick() == 0, "it has beaten since"
    clock.now = 251
    assert dispatcher.tick() == 1
    second = executor.jobs[1]
    assert second.run_id != first.run_id and second.attempt == 2
    late = CompletedResult(used_runtime_seconds=3, val_losses=[1.0], run_id=first.run_id)
    assert not finish(service.sessions, 1, late)
    assert used(service, headers) == 30.0
    assert finish(service.sessions, 1, CompletedResult(used_runtime_seconds=7, val_losses=[2.0], run_id=second.run_id))
    assert used(service, headers) == 7.0
    assert client.get("/experiment/1", headers=headers).json()["status"]["val_losses"] == [2.0]


def test_a_wall_clock_that_jumps_ends_no_lease(service, loop, monkeypatch):
    dispatcher, executor, clock = loop
    submit(service, 30)
    dispatcher.tick()

    class Jumping(datetime):
        offset = timedelta(0)

        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + cls.offset

    for module in ("queue", "submissions"):
        monkeypatch.setattr(f"cs336_scaling.scheduler.{module}.datetime", Jumping)
    for hours in (-5, 5, 1000):
        Jumping.offset = timedelta(hours=hours)
        clock.now += 30
        assert dispatcher.tick() == 0
        headers = service.add_user(f"learner{hours}")
        assert service.client().post("/submit", headers=headers, json=body_of(10)).status_code == 200
        assert dispatcher.tick() == 1, "work goes on"
    assert executor.jobs[0].run_id not in [job.run_id for job in executor.jobs[1:]]


@pytest.mark.parametrize("how", ["dies", "cannot start"])
def test_after_three_attempts_a_run_has_failed_and_is_not_charged(service, loop, how):
    dispatcher, executor, _ = loop
    headers = submit(service, 30)
    executor.broken = how == "cannot start"
    for _ in range(4):
        dispatcher.tick()
        executor.dead = [(job.experiment_id, job.run_id) for job in executor.jobs[-1:]]
    status = service.client().get("/experiment/1", headers=headers).json()["status"]
    assert status["status_type"] == "failed" and "3 attempts" in status["reason"]["failure"]
    assert len(executor.jobs) == (0 if executor.broken else 3) and used(service, headers) == 0.0
    requeue_failed(service.sessions, 1, service.settings)
    assert used(service, headers) == 30.0
    executor.broken = False
    assert dispatcher.tick() == 1
    with pytest.raises(ValueError, match="only a failed"):
        requeue_failed(service.sessions, 1, service.settings)

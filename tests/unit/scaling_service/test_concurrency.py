"""Budgets under attack from 64 threads, on both databases: exactly what the budget allows is granted."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from cs336_scaling.executors.protocol import LossAnswer, LossRequest
from cs336_scaling.loss_queries import OverBudget, query_loss
from cs336_scaling.scheduler.queue import claim
from cs336_scaling.scheduler.submissions import DuplicateExperiment, InsufficientBudget, submit
from tests.unit.scaling_service.configs import config_of

THREADS = 64


def at_once(function, arguments: list) -> list:
    """Call with each argument, all threads starting together."""
    gate = threading.Barrier(len(arguments))

    def run(argument):
        gate.wait(60)
        return function(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(run, arguments))


def test_a_budget_for_11_jobs_grants_11_of_64(service):
    service.configure(TOTAL_BUDGET_SECONDS=11 * 30 + 29)
    service.add_user("greedy")
    configs = [config_of(30, seed=seed) for seed in range(THREADS)]

    def attempt(config) -> str:
        try:
            submit(service.sessions, service.settings, sunet_id="greedy", config=config)
        except InsufficientBudget as error:
            return f"refused at {error.summary.used_seconds}"
        return "granted"

    outcomes = Counter(at_once(attempt, configs))
    assert outcomes == {"granted": 11, "refused at 330.0": 53}


def test_the_same_job_64_times_is_one_job(service):
    service.add_user("eager")

    def attempt(number: int) -> str:
        try:
            submit(service.sessions, service.settings, sunet_id="eager", config=config_of(30))
        except DuplicateExperiment:
            return "duplicate"
        return "granted"

    assert Counter(at_once(attempt, list(range(THREADS)))) == {"granted": 1, "duplicate": 63}
    with service.sessions() as session:
        from cs336_scaling.budget import used_ms

        assert used_ms(session, "eager") == 30_000


class Slow:
    """A source that takes long enough for everybody to arrive."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()

    def answer(self, request: LossRequest) -> LossAnswer:
        with self._lock:
            self.calls += 1
        threading.Event().wait(0.05)
        return LossAnswer(1.0 + request.learning_rate, "law")


@pytest.mark.parametrize("cost", [3 * 10**17, 10**18])
def test_flops_are_never_overdrawn(service, cost):
    service.add_user("greedy")
    source = Slow()

    def attempt(number: int) -> str:
        request = LossRequest(64, 2, 2, 128, 1e-4 + 1e-6 * number, cost)
        try:
            query_loss(service.sessions, service.settings, source, sunet_id="greedy", request=request)
        except OverBudget:
            return "refused"
        return "granted"

    granted = 2 * 10**18 // cost
    assert Counter(at_once(attempt, list(range(THREADS)))) == {"granted": granted, "refused": THREADS - granted}
    assert source.calls == granted, "nothing was computed that was not paid for"


def test_equal_queries_are_computed_and_charged_once(service):
    service.add_user("eager")
    source, request = Slow(), LossRequest(64, 2, 2, 128, 1e-3, 10**17)

    def attempt(number: int):
        return query_loss(service.sessions, service.settings, source, sunet_id="eager", request=request)

    answers = set(at_once(attempt, list(range(16))))
    assert len(answers) == 1 and answers.pop().total_flops_used == 10**17 and source.calls == 1


def test_two_dispatchers_never_claim_the_same_job(service):
    service.add_user("learner")
    for seed in range(30):
        submit(service.sessions, service.settings, sunet_id="learner", config=config_of(10, seed=seed))
    service.configure(MAX_CONCURRENT_WORKERS=17)
    claimed = [
        job for jobs in at_once(lambda _: claim(service.sessions, service.settings), list(range(8))) for job in jobs
    ]
    assert len(claimed) == 17 == len({job.experiment_id for job in claimed})

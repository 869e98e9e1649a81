"""The API of 2024 and 2025 on both databases: bodies, errors, charges. Losses come from a formula of this file."""

from __future__ import annotations

import pytest

from cs336_scaling.executors.protocol import LossAnswer, LossRequest

BUDGET = 2 * 10**18
GOOD = {
    "d_model": 256, "num_layers": 4, "num_heads": 4, "batch_size": 128, "learning_rate": 0.001, "train_flops": 10**17
}  # fmt: skip


def formula(request: LossRequest) -> float:
    return 2.0 + request.learning_rate + 1e6 / (12 * request.num_layers * request.d_model**2)


class Formula:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[LossRequest] = []

    def answer(self, request: LossRequest) -> LossAnswer:
        self.asked.append(request)
        if request.num_layers == 13:
            raise RuntimeError("out of memory")
        if request.num_layers == 14:
            return LossAnswer(float("nan"), "law")
        return LossAnswer(formula(request), "measured")


@pytest.fixture
def source() -> Formula:
    return Formula()


@pytest.fixture
def ask(service, source):
    """Ask for a loss as the learner of key 12345678."""
    service.add_user(key="12345678")
    client = service.client(source=source)

    def send(path: str = "/loss", **changes: object):
        query = {**(GOOD if path == "/loss" else {}), "api_key": "12345678", **changes}
        return client.get(path, params={name: value for name, value in query.items() if value is not None})

    return send


def test_a_loss_is_charged_once(ask, source):
    first = ask()
    assert first.status_code == 200
    expected = formula(LossRequest(**GOOD))
    assert first.json() == {"loss": expected, "total_flops_used": 10**17, "source": "measured"}
    for same in ({"learning_rate": "1e-3"}, {"train_flops": "1e17"}, {"d_model": "256.0"}):
        assert ask(**same).json() == first.json()
    assert len(source.asked) == 1
    assert ask("/total_flops_used").text == "100000000000000000"
    assert ask(num_layers=2).json()["total_flops_used"] == 2 * 10**17
    runs = ask("/previous_runs").json()
    second = {**GOOD, "num_layers": 2}
    assert runs == {"previous_runs": [{**GOOD, "loss": expected}, {**second, "loss": formula(LossRequest(**second))}]}


RANGE = "{name} must be in range [{low}, {high}], got {value}"
LEVELS = ", ".join(str(digit * 10**k) for k in range(13, 18) for digit in (1, 3, 6)) + f", {10**18}"
REFUSED = [
    ({"d_model": 9999}, 404, "d_model must be in range [64, 1024], got 9999"),
    ({"d_model": 63}, 404, "d_model must be in range [64, 1024], got 63"),
    ({"num_layers": 25}, 404, "num_layers must be in range [2, 24], got 25"),
    ({"num_layers": -1}, 404, "num_layers must be in range [2, 24], got -1"),
    ({"num_heads": 1}, 404, "num_heads must be in range [2, 16], got 1"),
    ({"learning_rate": 0.00099e-1}, 404, "learning_rate must be in range [0.0001, 0.001], got 9.9e-05"),
    ({"batch_size": 64}, 404, "batch_size must be one of {128, 256}, got 64"),
    ({"train_flops": 2 * 10**13}, 404, f"train_flops must be one of {{{LEVELS}}}, got 20000000000000"),
    ({"d_model": 257}, 404, "d_model must be a multiple of num_heads, got d_model=257, num_heads=4"),
    ({"d_model": "wide"}, 422, "d_model must be an integer, got 'wide'"),
    ({"d_model": 64.5}, 422, "d_model must be an integer, got '64.5'"),
    ({"train_flops": "1e999999999"}, 422, "train_flops must be an integer, got '1e999999999'"),
    ({"learning_rate": "nan"}, 422, "learning_rate must be a number, got 'nan'"),
    ({"learning_rate": "inf"}, 422, "learning_rate must be a number, got 'inf'"),
    ({"num_heads": ""}, 422, "num_heads must be an integer, got ''"),
    ({"train_flops": None}, 422, "train_flops is missing"),
    ({"api_key": None}, 422, "api_key is missing"),
    ({"api_key": "nobody"}, 422, "Invalid API key provided: nobody"),
]


def test_a_bad_query_is_told_in_this_apis_form_and_costs_nothing(ask, source):
    for change, status, text in REFUSED:
        answer = ask(**change)
        assert (answer.status_code, answer.json()) == (status, {"message": text})
    assert source.asked == []
    for path in ("/total_flops_used", "/previous_runs"):
        assert ask(path).status_code == 422 and set(ask(path).json()) == {"message"}
        assert ask(path, api_key="nobody").json() == {"message": "Invalid API key provided: nobody"}


def test_the_ends_of_the_ranges_are_allowed(ask):
    for change in (
        {"d_model": 64}, {"d_model": 1024}, {"num_layers": 2}, {"num_layers": 24}, {"num_heads": 2}, {"num_heads": 16},
        {"learning_rate": 1e-4}, {"learning_rate": 1e-3}, {"batch_size": 256}, {"train_flops": 10**13},
    ):  # fmt: skip
        assert ask(**{"train_flops": 10**13, **change}).status_code == 200, change


def test_the_wording_of_2024(sqlite_service, source):
    sqlite_service.configure(EDITION=2024)
    answer = sqlite_service.client(source=source).get("/loss", params={**GOOD, "api_key": "k"})
    assert (answer.status_code, answer.json()) == (422, {"message": "Invalid API key: 'k'"})


def test_the_budget_is_a_hard_cap(ask):
    assert ask(train_flops=10**18).json()["total_flops_used"] == 10**18
    assert ask(train_flops=6 * 10**17, num_layers=2).json()["total_flops_used"] == 16 * 10**17
    refused = ask(train_flops=6 * 10**17, num_layers=3)
    assert refused.status_code == 403
    assert refused.json() == {
        "message": f"Budget exceeded: this query needs {6 * 10**17} FLOPs, but {16 * 10**17} of {BUDGET} are used and "
        f"{4 * 10**17} remain"
    }
    assert ask(train_flops=10**18).status_code == 200, "what was paid for stays free"
    assert ask(train_flops=3 * 10**17, num_layers=3).status_code == 200
    assert ask(train_flops=10**17, num_layers=3).json()["total_flops_used"] == BUDGET, "the last FLOP can be spent"
    assert ask(train_flops=10**13, num_layers=3).status_code == 403
    assert ask("/total_flops_used").json() == BUDGET


def test_budgets_beyond_64_bits_are_exact(service, source):
    service.configure(TOTAL_BUDGET_FLOPS=10**25)
    service.add_user(key="12345678")
    from cs336_scaling.db.tables import UserTable

    with service.sessions() as session:
        session.get(UserTable, "learner").used_flops = 10**25 - 10**13
        session.commit()
    client = service.client(source=source)
    over = client.get("/loss", params={**GOOD, "train_flops": 3 * 10**13, "api_key": "12345678"})
    assert over.status_code == 403 and f"{10**13} remain" in over.json()["message"]
    exact = client.get("/loss", params={**GOOD, "train_flops": 10**13, "api_key": "12345678"})
    assert exact.json()["total_flops_used"] == 10**25


@pytest.mark.parametrize("layers", [13, 14])
def test_a_failed_run_is_not_charged_and_can_be_asked_again(ask, source, layers):
    for _ in range(2):
        answer = ask(num_layers=layers)
        assert answer.status_code == 503 and "not charged" in answer.json()["message"]
    assert len(source.asked) == 2
    assert ask("/total_flops_used").status_code == 422, "no query was charged"


def test_the_micro_profile_has_its_own_ranges(sqlite_service, source):
    sqlite_service.configure(PROFILE="micro")
    sqlite_service.add_user(key="12345678")
    client = sqlite_service.client(source=source)
    small = {**GOOD, "d_model": 16, "batch_size": 8, "train_flops": 10**12, "api_key": "12345678"}
    assert client.get("/loss", params=small).status_code == 200
    assert client.get("/loss", params={**small, "d_model": 512}).status_code == 404

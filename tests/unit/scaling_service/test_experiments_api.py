"""The 2026 API as the contract states it, on both databases; expected bodies are written out here."""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from cs336_scaling.db.tables import EventLogTable, ExperimentTable, FinalSubmissionTable, UserTable
from cs336_scaling.schemas import ExperimentResponse
from tests.unit.scaling_service.configs import body_of, config_of


def budget(used: float, total: float = 43200.0) -> dict[str, float]:
    return {"used_seconds": used, "remaining_seconds": total - used, "total_budget_seconds": total}


def test_a_new_learner_has_the_whole_budget(service):
    assert service.client().get("/budget", headers=service.add_user()).json() == budget(0.0)


def test_a_key_is_readable_where_it_was_set_and_nowhere_else(service):
    user = UserTable(sunet_id="somebody", api_key="12345678")
    with service.sessions() as session:
        session.add(user)
        session.commit()
        assert user.api_key == "12345678"
    with service.sessions() as session:
        row = session.scalars(select(UserTable)).one()
        assert "12345678" not in repr(vars(row)) and len(row.api_key_hash) == 64
        with pytest.raises(AttributeError, match="stored as a hash"):
            row.api_key  # noqa: B018


def test_three_submissions_are_queued_in_order(service):
    client, headers, used = service.client(), service.add_user(), 0
    for number, (seconds, hidden) in enumerate([(10, 202), (30, 204), (20, 206)], start=1):
        answer = client.post("/submit", headers=headers, json=body_of(seconds, hidden=hidden))
        used += seconds
        assert answer.status_code == 200
        assert answer.json() == {"experiment_id": number, "budget_summary": budget(float(used))}
        assert client.get("/budget", headers=headers).json() == budget(float(used))
    listed = client.get("/experiments", headers=headers).json()
    assert [row["experiment_id"] for row in listed] == [1, 2, 3]
    assert [row["training_config"]["max_runtime_seconds"] for row in listed] == [10, 30, 20]
    assert {row["status"]["status_type"] for row in listed} == {"queued"}
    times = [row["status"]["queued_at"] for row in listed]
    assert times == sorted(times)
    first = ExperimentResponse.model_validate(listed[0])
    now = datetime.now(UTC)
    assert now - timedelta(seconds=60) < first.status.queued_at < now and first.status.queued_at.tzinfo == UTC
    assert client.get("/experiment/1", headers=headers).json() == listed[0]


def test_the_same_configuration_is_refused_and_charged_once(service):
    client, headers, config = service.client(), service.add_user(), config_of(10)
    body = config.model_dump(mode="json")
    assert client.post("/submit", headers=headers, json=body).status_code == 200
    reordered = dict(reversed(body.items()))
    answer = client.post("/submit", headers=headers, json=reordered)
    assert answer.status_code == 409
    assert answer.json() == {"detail": "experiment already exists for this training config"}
    assert client.get("/budget", headers=headers).json() == budget(10.0)
    with service.sessions() as session:
        assert session.scalars(select(ExperimentTable)).one().training_config_unique_id == config.unique_id
    other = service.add_user("other")
    assert client.post("/submit", headers=other, json=body).status_code == 200


def test_over_budget_is_refused_before_duplicate_and_costs_nothing(service):
    service.configure(TOTAL_BUDGET_SECONDS=50)
    client, headers = service.client(), service.add_user()
    assert client.post("/submit", headers=headers, json=body_of(30)).status_code == 200
    for body in (body_of(30), body_of(21, seed=1)):
        answer = client.post("/submit", headers=headers, json=body)
        assert answer.status_code == 400
        assert answer.json() == {"detail": {"message": "insufficient budget", "budget_summary": budget(30.0, 50.0)}}
    assert client.post("/submit", headers=headers, json=body_of(20, seed=2)).status_code == 200
    assert client.get("/budget", headers=headers).json() == budget(50.0, 50.0)


def test_an_idempotency_key_returns_the_first_experiment(service):
    client, headers = service.client(), {**service.add_user(), "Idempotency-Key": "once"}
    first = client.post("/submit", headers=headers, json=body_of(10))
    again = client.post("/submit", headers=headers, json=body_of(10))
    assert first.status_code == again.status_code == 200 and first.json() == again.json()
    assert client.post("/submit", headers=headers, json=body_of(11)).status_code == 409
    assert client.get("/budget", headers=headers).json() == budget(10.0)


def test_who_is_not_known_is_refused(service):
    client = service.client()
    service.add_user()
    calls = [("GET", "/budget"), ("GET", "/experiments"), ("GET", "/experiment/1"), ("GET", "/final_submission")]
    for method, path in [*calls, ("POST", "/submit"), ("POST", "/final_submission")]:
        missing = client.request(method, path)
        assert (missing.status_code, missing.json()) == (401, {"detail": "missing X-API-Key"})
        unknown = client.request(method, path, headers={"X-API-Key": "99999999"})
        assert (unknown.status_code, unknown.json()) == (401, {"detail": "invalid API key"})


def test_nobody_sees_anothers_experiment(service):
    client, mine, other = service.client(), service.add_user("a"), service.add_user("b")
    client.post("/submit", headers=mine, json=body_of(10))
    assert client.get("/experiment/1", headers=mine).status_code == 200
    for headers, number in ((other, "1"), (mine, "2"), (mine, "0"), (mine, "-1"), (mine, str(10**30))):
        answer = client.get(f"/experiment/{number}", headers=headers)
        assert (answer.status_code, answer.json()) == (404, {"detail": "not found"}), number
    assert client.get("/experiment/one", headers=mine).status_code == 422
    assert client.get("/experiments", headers=other).json() == []


def test_a_final_submission_is_kept_and_replaced(service):
    client, headers = service.client(), service.add_user()
    assert client.get("/final_submission", headers=headers).json() is None
    for loss in (3.25, 3.0):
        body = {"training_config": body_of(100), "predicted_final_loss": loss}
        answer = client.post("/final_submission", headers=headers, json=body)
        assert answer.status_code == 200
        handed_in = answer.json()
        assert handed_in["training_config"] == body["training_config"] and handed_in["predicted_final_loss"] == loss
        assert datetime.fromisoformat(handed_in["submitted_at"]) < datetime.now(UTC)
        assert client.get("/final_submission", headers=headers).json() == handed_in
    with service.sessions() as session:
        assert len(session.scalars(select(FinalSubmissionTable)).all()) == 1
    for loss in (0, -1, "Infinity", "x", None):
        body = {"training_config": body_of(100), "predicted_final_loss": loss}
        assert client.post("/final_submission", headers=headers, json=body).status_code == 422


BAD = {
    "heads": ("architecture_config", {"num_attention_heads": 5}),
    "key heads do not divide": ("architecture_config", {"num_key_value_heads": 3}),
    "odd head": ("architecture_config", {"head_dim": 1, "num_attention_heads": 448}),
    "narrow feed-forward": ("architecture_config", {"intermediate_size": 447}),
    "eps": ("architecture_config", {"rms_norm_eps": 0}),
    "theta": ("architecture_config", {"rope_theta": 0}),
    "dtype": ("architecture_config", {"dtype": "float16"}),
    "unknown field": ("architecture_config", {"layers": 3}),
    "beta": ("optimizer_config", {"beta1": 1.0}),
    "weight decay": ("optimizer_config", {"weight_decay": -1}),
    "clip": ("optimizer_config", {"grad_clip_norm": 0}),
    "eps of AdamW": ("optimizer_config", {"eps": 0}),
    "peak": ("optimizer_config", {"lr_scheduler": {"peak_value": 0}}),
    "warm-up": ("optimizer_config", {"lr_scheduler": {"warmup_frac": 1}}),
    "tokens not divisible": (None, {"total_train_tokens": 2**20 + 1}),
    "too many tokens": (None, {"total_train_tokens": 2**39}),
    "evaluations": (None, {"n_evals": 7}),
    "validation batch": (None, {"val_batch_size": 3}),
    "too long": (None, {"max_runtime_seconds": 43201}),
    "no time": (None, {"max_runtime_seconds": 0}),
    "seed": (None, {"model_seed": -1}),
    "text": (None, {"n_evals": "many"}),
    "extra": (None, {"learning_rate": 1}),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_configuration_is_refused_and_costs_nothing(sqlite_service, case):
    client, headers = sqlite_service.client(), sqlite_service.add_user()
    part, change = BAD[case]
    body = copy.deepcopy(body_of(10))
    (body if part is None else body[part]).update(change)
    answer = client.post("/submit", headers=headers, json=body)
    assert answer.status_code == 422 and isinstance(answer.json()["detail"], list), answer.text
    assert client.get("/budget", headers=headers).json() == budget(0.0)


def test_a_body_without_adamw_fields_is_sgd_and_says_so(sqlite_service):
    client, headers = sqlite_service.client(), sqlite_service.add_user()
    body = body_of(10, optimizer_config={"lr_scheduler": {"peak_value": 0.1}})
    answer = client.post("/submit", headers=headers, json=body)
    assert answer.status_code == 200 and "SGD" in answer.headers["X-Warning"]
    assert set(client.get("/experiment/1", headers=headers).json()["training_config"]["optimizer_config"]) == {
        "lr_scheduler", "grad_clip_norm",
    }  # fmt: skip


def test_unique_ids_tell_configurations_apart():
    config = config_of(10)
    again = type(config).model_validate_json(config.model_dump_json())
    assert again.unique_id == config.unique_id and len(config.unique_id) == 20 and int(config.unique_id, 16) >= 0
    others = {config_of(11).unique_id, config_of(10, seed=1).unique_id, config_of(10, hidden=450).unique_id}
    assert len(others | {config.unique_id}) == 4


def test_derived_counts():
    config = config_of(total_train_tokens=512 * 128 * 32, n_evals=8)
    assert config.tokens_per_optimizer_step == 65536 and config.total_optimizer_steps == 32
    assert config.eval_every_tokens == 262144 and config.optimizer_steps_per_eval == 4


def test_the_queue_can_be_full(service):
    service.configure(MAX_QUEUE_LENGTH=2)
    client, headers = service.client(), service.add_user()
    for seed in (0, 1):
        assert client.post("/submit", headers=headers, json=body_of(10, seed=seed)).status_code == 200
    answer = client.post("/submit", headers=headers, json=body_of(10, seed=2))
    assert answer.status_code == 503 and "full" in answer.json()["detail"] and "Retry-After" in answer.headers
    assert client.get("/budget", headers=headers).json() == budget(20.0)


def test_an_oversized_body_is_refused(sqlite_service):
    client, headers = sqlite_service.client(), sqlite_service.add_user()
    announced = client.post("/submit", headers=headers, content=b"x" * 65_537)
    streamed = client.post("/submit", headers=headers, content=(b"x" * 10_000 for _ in range(10)))
    assert announced.status_code == streamed.status_code == 413
    assert "65536" in announced.json()["detail"] and announced.json() == streamed.json()
    assert client.post("/submit", headers=headers, content=b"{").status_code == 422


def test_a_submission_is_logged(service):
    client, headers = service.client(), service.add_user()
    client.post("/submit", headers=headers, json=body_of(10))
    with service.sessions() as session:
        events = session.scalars(select(EventLogTable)).all()
    assert [(row.experiment_id, row.event.log_type) for row in events] == [(1, "queued")]


def test_the_dashboard_is_a_page_of_its_own(sqlite_service):
    client = sqlite_service.client()
    page = client.get("/dashboard")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert "Scaling Experiments Dashboard" in page.text
    outside = page.text.replace("http://www.w3.org/2000/svg", "")
    assert "http:" not in outside and "https:" not in outside and "src=" not in outside
    described = client.get("/openapi.json").json()["paths"]
    assert "/submit" in described and "/loss" in described
    assert not {"/dashboard", "/internal/worker/{experiment_id}/event"} & set(described)

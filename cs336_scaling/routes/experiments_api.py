"""The API of 2026: submit real runs, pay in seconds of training.

    POST /submit   GET /budget   GET /experiments   GET /experiment/{id}   POST, GET /final_submission

The learner is named by the header X-API-Key; errors are {"detail": ...}. A status is the request made most often: it is
answered from the stored text, by a statement that is put together once, without a session. Read next:
`../scheduler/submissions.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from sqlalchemy import Row, Text, bindparam, select, type_coerce

from cs336_scaling.budget import budget_summary, lock_user
from cs336_scaling.db.engine import writing
from cs336_scaling.db.tables import ExperimentTable, FinalSubmissionTable
from cs336_scaling.routes.callers import current_learner
from cs336_scaling.routes.short_reads import read_shortly
from cs336_scaling.scheduler.submissions import (
    DuplicateExperiment,
    IdempotencyKeyReused,
    InsufficientBudget,
    QueueFull,
    submit,
)
from cs336_scaling.schemas.experiment import (
    BudgetSummary,
    ExperimentResponse,
    FinalSubmissionRequest,
    FinalSubmissionResponse,
    SubmitResponse,
)
from cs336_scaling.training.optimizer import SGDConfig
from cs336_scaling.training.training_config import TrainingConfig

router = APIRouter(tags=["2026"])
Learner = Annotated[str, Depends(current_learner)]
MAX_ID = 2**31 - 1
_ROW = ExperimentTable.__table__.c
STORED = select(
    _ROW.id, type_coerce(_ROW.training_config, Text), type_coerce(_ROW.status, Text), _ROW.source
).where(_ROW.user_sunet_id == bindparam("learner"))  # fmt: skip
"""number, configuration and status (as stored text) and source of a learner's experiments"""
EXPERIMENTS = STORED.order_by(_ROW.queued_at, _ROW.id.desc())
EXPERIMENT = STORED.where(_ROW.id == bindparam("number"))


@router.post("/submit")
def submit_experiment(request: Request, response: Response, learner: Learner, config: TrainingConfig) -> SubmitResponse:
    """Queue a run; its max_runtime_seconds are reserved until it ends."""
    state, key = request.app.state, request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= 200:
        raise HTTPException(422, f"Idempotency-Key must have 1 to 200 characters; got {len(key)}")
    if isinstance(config.optimizer_config, SGDConfig):
        response.headers["X-Warning"] = "optimizer_config was read as SGD; give weight_decay or betas for AdamW"
    try:
        return submit(state.sessions, state.settings, sunet_id=learner, config=config, idempotency_key=key)
    except InsufficientBudget as error:
        raise HTTPException(
            400, {"message": "insufficient budget", "budget_summary": error.summary.model_dump()}
        ) from error
    except DuplicateExperiment as error:
        raise HTTPException(409, "experiment already exists for this training config") from error
    except IdempotencyKeyReused as error:
        raise HTTPException(409, "this Idempotency-Key belongs to another training config") from error
    except QueueFull as error:
        raise HTTPException(503, "the queue is full; try again later", {"Retry-After": "60"}) from error


@router.get("/budget")
async def budget(request: Request, learner: Learner) -> BudgetSummary:
    """Seconds used, remaining and granted."""
    return await read_shortly(request, _budget, request, learner)


def _budget(request: Request, learner: str) -> BudgetSummary:
    with request.app.state.reads.connect() as connection:
        return budget_summary(connection, learner, total_seconds=request.app.state.settings.total_budget_seconds)


@router.get("/experiments", response_model=list[ExperimentResponse])
def list_experiments(request: Request, learner: Learner) -> Response:
    """The learner's experiments, oldest first."""
    with request.app.state.reads.connect() as connection:
        rows = connection.execute(EXPERIMENTS, {"learner": learner})
        texts = [_as_text(*row[:3]) for row in rows]
    return Response(f"[{','.join(texts)}]", media_type="application/json")


@router.get("/experiment/{experiment_id}", response_model=ExperimentResponse)
async def get_experiment(request: Request, learner: Learner, experiment_id: int) -> Response:
    """One experiment of the learner; X-Source tells where a finished one's losses come from."""
    row = await read_shortly(request, _stored, request, learner, experiment_id)
    if row is None:
        raise HTTPException(404, "not found")
    headers = {} if row.source is None else {"X-Source": row.source}
    return Response(_as_text(*row[:3]), media_type="application/json", headers=headers)


def _stored(request: Request, learner: str, number: int) -> Row[tuple[int, str, str, str | None]] | None:
    if not 0 < number <= MAX_ID:
        return None
    with request.app.state.reads.connect() as connection:
        return connection.execute(EXPERIMENT, {"learner": learner, "number": number}).first()


@router.post("/final_submission")
def save_final_submission(
    request: Request, learner: Learner, submission: FinalSubmissionRequest
) -> FinalSubmissionResponse:
    """Hand in, replacing what was handed in before."""
    now = datetime.now(UTC)
    with writing(request.app.state.sessions) as session:
        lock_user(session, learner)
        session.merge(
            FinalSubmissionTable(
                user_sunet_id=learner, training_config=submission.training_config,
                predicted_final_loss=submission.predicted_final_loss, submitted_at=now,
            )
        )  # fmt: skip
    return FinalSubmissionResponse(**dict(submission), submitted_at=now)


@router.get("/final_submission")
def get_final_submission(request: Request, learner: Learner) -> FinalSubmissionResponse | None:
    """What was handed in, or null."""
    with request.app.state.sessions() as session:
        row = session.get(FinalSubmissionTable, learner)
    if row is None:
        return None
    return FinalSubmissionResponse(
        training_config=row.training_config, predicted_final_loss=row.predicted_final_loss,
        submitted_at=row.submitted_at,
    )  # fmt: skip


def _as_text(identity: int, config: str, status: str) -> str:
    """An `ExperimentResponse`, put together from what is stored as JSON already."""
    return f'{{"experiment_id":{identity},"training_config":{config},"status":{status}}}'

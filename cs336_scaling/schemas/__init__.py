"""Messages of the training service."""

from cs336_scaling.schemas.experiment import (
    BudgetSummary,
    CompletedExperimentStatus,
    ExperimentResponse,
    ExperimentStatus,
    FailedExperimentStatus,
    FinalSubmissionRequest,
    FinalSubmissionResponse,
    QueuedExperimentStatus,
    RunningExperimentStatus,
    SubmitResponse,
    TimeoutReason,
    UnexpectedReason,
)

__all__ = [
    "BudgetSummary",
    "CompletedExperimentStatus",
    "ExperimentResponse",
    "ExperimentStatus",
    "FailedExperimentStatus",
    "FinalSubmissionRequest",
    "FinalSubmissionResponse",
    "QueuedExperimentStatus",
    "RunningExperimentStatus",
    "SubmitResponse",
    "TimeoutReason",
    "UnexpectedReason",
]

"""The API of 2024 and 2025: ask for the loss of a run, pay in FLOPs.

    GET /loss              d_model, num_layers, num_heads, batch_size, learning_rate, train_flops, api_key
    GET /total_flops_used  api_key
    GET /previous_runs     api_key

Errors are {"message": ...}: 404 for a value that is not offered, 422 for an unknown key, a missing or wrong-typed
parameter, or a key without queries, 403 over budget, 429 too fast, 503 when a run failed or the database is away. A
refused or failed query costs nothing. Read next: `../loss_queries.py`.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from cs336_scaling.loss_queries import (
    LossFailed,
    OverBudget,
    StillComputing,
    previous_runs,
    query_loss,
    total_flops_used,
)
from cs336_scaling.loss_rules import NUMBERS, RULES, OutOfRange, WrongType, parse_query
from cs336_scaling.routes.callers import learner_of

router = APIRouter(tags=["2024 and 2025"])
PATHS = ("/loss", "/total_flops_used", "/previous_runs")
STATUS: dict[type[Exception], int] = {
    WrongType: 422, OutOfRange: 404, OverBudget: 403, LossFailed: 503, StillComputing: 503,
}  # fmt: skip
_STRING = {"in": "query", "required": True, "schema": {"type": "string"}}
_KEY = {"name": "api_key", **_STRING}
_ONLY_KEY = {"parameters": [_KEY]}
_QUERY = {"parameters": [*({"name": name, **_STRING, "schema": {"type": "number"}} for name in NUMBERS), _KEY]}


def message(status: int, text: str, **headers: str) -> JSONResponse:
    """An error in this API's form."""
    return JSONResponse({"message": text}, status_code=status, headers=headers)


@router.get("/loss", openapi_extra=_QUERY)
def loss(request: Request) -> JSONResponse:
    """Loss of a run, charged the first time it is asked for."""
    learner = _learner(request)
    if isinstance(learner, JSONResponse):
        return learner
    state = request.app.state
    try:
        query = parse_query(request.query_params, RULES[state.settings.profile])
        answer = query_loss(state.sessions, state.settings, state.source, sunet_id=learner, request=query)
    except tuple(STATUS) as error:
        return message(STATUS[type(error)], str(error))
    return JSONResponse({"loss": answer.loss, "total_flops_used": answer.total_flops_used, "source": answer.source})


@router.get("/total_flops_used", openapi_extra=_ONLY_KEY)
def flops_used(request: Request) -> JSONResponse:
    """FLOPs spent so far, a bare number."""
    learner = _learner(request)
    if isinstance(learner, JSONResponse):
        return learner
    with request.app.state.sessions() as session:
        used = total_flops_used(session, learner)
    return JSONResponse(used) if used else _no_queries()


@router.get("/previous_runs", openapi_extra=_ONLY_KEY)
def runs(request: Request) -> JSONResponse:
    """All queries and their losses, in order."""
    learner = _learner(request)
    if isinstance(learner, JSONResponse):
        return learner
    with request.app.state.sessions() as session:
        found = previous_runs(session, learner)
    return JSONResponse({"previous_runs": found}) if found else _no_queries()


def _learner(request: Request) -> str | JSONResponse:
    """The learner, or the answer to a wrong key."""
    key = request.query_params.get("api_key")
    if key is None:
        return message(422, "api_key is missing")
    learner = learner_of(request, key)
    if learner is None:
        old = request.app.state.settings.edition == "2024"
        return message(422, f"Invalid API key: '{key}'" if old else f"Invalid API key provided: {key}")
    return learner


def _no_queries() -> JSONResponse:
    return message(422, "No queries have been made with this API key yet")

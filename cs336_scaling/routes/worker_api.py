"""What workers call: events and results of their runs. Not in the public schema; X-Internal-Key names a worker.

204 for everything that was understood; X-Run-Lost: true tells a worker that its run was given up, so that it stops.
Read next: `../scheduler/queue.py`.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends, HTTPException, Request, Response

from cs336_scaling.routes.callers import require_worker
from cs336_scaling.scheduler.queue import NotRunning, UnknownExperiment, finish, report
from cs336_scaling.schemas.events import Result, WorkerEvent

router = APIRouter(prefix="/internal/worker", include_in_schema=False, dependencies=[Depends(require_worker)])
RUN_LOST = {"X-Run-Lost": "true"}


@router.post("/{experiment_id}/event", status_code=204)
def record_event(request: Request, experiment_id: int, event: Annotated[WorkerEvent, Body()]) -> Response:
    """Log an event."""
    try:
        current = report(request.app.state.sessions, experiment_id, event)
    except UnknownExperiment as error:
        raise HTTPException(404, "not found") from error
    return Response(status_code=204, headers=None if current else RUN_LOST)


@router.post("/{experiment_id}/finish", status_code=204)
def record_result(request: Request, experiment_id: int, result: Annotated[Result, Body()]) -> Response:
    """Settle a run."""
    try:
        used = finish(request.app.state.sessions, experiment_id, result)
    except UnknownExperiment as error:
        raise HTTPException(404, "not found") from error
    except NotRunning as error:
        raise HTTPException(500, str(error)) from error
    return Response(status_code=204, headers=None if used else RUN_LOST)

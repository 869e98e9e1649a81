"""The dashboard: one page without outside parts, that asks for its data every second.

Anybody sees how long the queue is; the curves of a learner's own experiments need the learner's key, typed into the
page or given behind the # of its address (which browsers do not send). Others' losses are not shown: they would be
free queries. Read next: `dashboard.html`.
"""

from __future__ import annotations

import json
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from sqlalchemy import func, select

from cs336_scaling.budget import budget_summary
from cs336_scaling.db.tables import ExperimentTable
from cs336_scaling.routes.callers import learner_of_header
from cs336_scaling.routes.experiments_api import EXPERIMENTS

router = APIRouter(include_in_schema=False)
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
NEWEST = 200


@router.get("/")
def home() -> RedirectResponse:
    """To the dashboard."""
    return RedirectResponse("/dashboard")


@router.get("/dashboard")
def dashboard() -> HTMLResponse:
    """The page."""
    page = resources.files("cs336_scaling.routes").joinpath("dashboard.html").read_text(encoding="utf-8")
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})


@router.get("/dashboard/data")
def dashboard_data(request: Request) -> JSONResponse:
    """Counts by state; with X-API-Key also the learner's budget and newest experiments."""
    learner = learner_of_header(request) if "X-API-Key" in request.headers else None
    settings = request.app.state.settings
    with request.app.state.sessions() as session:
        count = select(ExperimentTable.status_type, func.count()).group_by(ExperimentTable.status_type)
        states = {state: number for state, number in session.execute(count)}
        data = {"states": states, "workers": settings.max_concurrent_workers}
        if learner is not None:
            data["budget"] = budget_summary(session, learner, total_seconds=settings.total_budget_seconds).model_dump()
            rows = session.execute(EXPERIMENTS, {"learner": learner}).all()[-NEWEST:]
            data["experiments"] = [_shown(*row) for row in reversed(rows)]
    return JSONResponse(data)


def _shown(identity: int, config_text: str, status_text: str, source: str | None) -> dict[str, object]:
    config, status = json.loads(config_text), json.loads(status_text)
    shape = config["architecture_config"]
    reason = status.get("reason") or {}
    losses = status.get("val_losses", reason.get("partial_val_losses", []))
    return {
        "id": identity, "state": status["status_type"], "losses": losses, "n_evals": config["n_evals"],
        "parameters": 12 * shape["num_hidden_layers"] * shape["hidden_size"] ** 2,
        "tokens": config["total_train_tokens"], "seconds": config["max_runtime_seconds"], "source": source or "",
        "note": reason.get("failure", reason.get("reason", "")),
        "learning_rate": config["optimizer_config"]["lr_scheduler"]["peak_value"],
    }  # fmt: skip

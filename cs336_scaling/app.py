"""The training service: the API of 2024 and 2025, the API of 2026, the worker API and the dashboard in one application.

    request -> body limit -> route -> learner (rate limit) -> one transaction -> answer

Each API has its own form of error. A database that is away makes 503, and nothing is charged, since every charge is a
transaction. The application only answers; the loop that starts runs is `scheduler/dispatcher.py`, begun with
`create_app(dispatch=True)`. Start reading here; next: `routes/experiments_api.py`, `routes/loss_api.py`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from cs336_scaling.config import settings_from_env
from cs336_scaling.db.engine import for_single_reads, get_engine, get_session_factory
from cs336_scaling.executors.choice import choose_executor, choose_source
from cs336_scaling.executors.protocol import LossSource
from cs336_scaling.rate_limit import RateLimiter
from cs336_scaling.routes import dashboard, experiments_api, loss_api, worker_api
from cs336_scaling.routes.body_limit import BodyLimit
from cs336_scaling.routes.callers import TooManyRequests
from cs336_scaling.scheduler.dispatcher import Dispatcher

logger = logging.getLogger(__name__)


def create_app(*, dispatch: bool = False, source: LossSource | None = None) -> FastAPI:
    """The application, from the settings of the environment.

    Args:
        dispatch: also start runs while the application is up.
        source: who answers the old API's /loss; by default what the settings name.
    """
    settings, sessions = settings_from_env(), get_session_factory()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not dispatch:
            yield
            return
        executor = choose_executor(settings, sessions, app.state.source)
        dispatcher = Dispatcher(sessions, executor, settings)
        dispatcher.start()
        yield
        dispatcher.stop()
        executor.close()

    app = FastAPI(title="cs336 training service", lifespan=lifespan)
    app.state.settings, app.state.sessions = settings, sessions
    app.state.reads = for_single_reads(get_engine())
    app.state.source = source or choose_source(settings)
    app.state.limiter = RateLimiter(rate=settings.rate_limit_per_s, burst=settings.rate_limit_burst)
    for routes in (experiments_api, loss_api, worker_api, dashboard):
        app.include_router(routes.router)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_exception_handler(TooManyRequests, _too_many_requests)
    for error in (OperationalError, InterfaceError, DBAPIError, PoolTimeout):
        app.add_exception_handler(error, _database_away)
    return app


def _error(request: Request, status: int, text: str, retry_after: int) -> JSONResponse:
    """An error in the form of the API that was called."""
    form = "message" if request.url.path in loss_api.PATHS else "detail"
    return JSONResponse({form: text}, status_code=status, headers={"Retry-After": str(retry_after)})


async def _too_many_requests(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TooManyRequests)
    return _error(request, 429, str(error), error.retry_after)


async def _database_away(request: Request, error: Exception) -> JSONResponse:
    logger.error("the database cannot be used: %s", error)
    return _error(request, 503, "the database cannot be reached; nothing was charged, try again later", 5)

"""The service's database."""

from cs336_scaling.db.engine import get_engine, get_session_factory, init_db

__all__ = ["get_engine", "get_session_factory", "init_db"]

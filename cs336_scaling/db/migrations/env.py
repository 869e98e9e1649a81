"""Alembic's entry point: migrations run on the connection that `../engine.py` hands over."""

from __future__ import annotations

from alembic import context

from cs336_scaling.db.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()

"""The first schema: learners, experiments, their events, final submissions, loss queries."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "users",
        sa.Column("sunet_id", sa.String(200), primary_key=True),
        sa.Column("api_key_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("used_flops", sa.String(40), nullable=False),
    )
    op.create_table(
        "experiments",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_sunet_id", sa.String(200), sa.ForeignKey("users.sunet_id"), nullable=False),
        sa.Column("training_config_unique_id", sa.String(40), nullable=False),
        sa.Column("training_config", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("status_type", sa.String(20), nullable=False),
        sa.Column("queued_at", TIME, nullable=False),
        sa.Column("charged_ms", sa.BigInteger, nullable=False),
        sa.Column("run_id", sa.String(40)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("heartbeats", sa.Integer, nullable=False),
        sa.Column("source", sa.String(20)),
        sa.UniqueConstraint("user_sunet_id", "training_config_unique_id", name="one_experiment_per_config"),
        sa.UniqueConstraint("user_sunet_id", "idempotency_key", name="one_experiment_per_idempotency_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("experiments_in_line", "experiments", ["status_type", "queued_at", "id"])
    op.create_index("experiments_charges", "experiments", ["user_sunet_id", "charged_ms"])
    op.create_table(
        "event_log",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("experiment_id", sa.Integer, sa.ForeignKey("experiments.id"), nullable=False),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
    )
    op.create_index("ix_event_log_experiment_id", "event_log", ["experiment_id"])
    op.create_table(
        "final_submissions",
        sa.Column("user_sunet_id", sa.String(200), sa.ForeignKey("users.sunet_id"), primary_key=True),
        sa.Column("training_config", sa.Text, nullable=False),
        sa.Column("predicted_final_loss", sa.Float, nullable=False),
        sa.Column("submitted_at", TIME, nullable=False),
    )
    op.create_table(
        "loss_queries",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_sunet_id", sa.String(200), sa.ForeignKey("users.sunet_id"), nullable=False),
        sa.Column("query_hash", sa.String(40), nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("flops", sa.String(40), nullable=False),
        sa.Column("owner", sa.String(40), nullable=False),
        sa.Column("beats", sa.Integer, nullable=False),
        sa.Column("loss", sa.Float),
        sa.Column("source", sa.String(20)),
        sa.UniqueConstraint("user_sunet_id", "query_hash", name="one_charge_per_query"),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("loss_queries", "final_submissions", "event_log", "experiments", "users"):
        op.drop_table(table)

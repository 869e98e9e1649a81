"""Fair order: which queued experiments get the free workers.

    rank of a queued experiment = its learner's running experiments + its place in the learner's own queue, from 0
    order = (rank, queued_at, id)

So everybody's first experiment comes before anybody's second, however many one learner has queued. Read next:
`queue.py`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cs336_scaling.db.tables import ExperimentTable


@dataclass(frozen=True)
class Selection:
    """What to dispatch now."""

    experiments: list[ExperimentTable]
    currently_running_jobs: int
    zero_running_user_experiments: int
    """how many of them are the first of a learner who has nothing running"""


def select_experiments_for_dispatch(session: Session, *, max_concurrent_workers: int) -> Selection:
    """Choose queued experiments for the free workers.

    Args:
        session: an open session; nothing is changed.
        max_concurrent_workers: workers in all, of which those running are taken.

    Complexity: two queries; time and memory linear in the queue.
    """
    count = select(ExperimentTable.user_sunet_id, func.count()).where(ExperimentTable.status_type == "running")
    running = Counter({user: number for user, number in session.execute(count.group_by(ExperimentTable.user_sunet_id))})
    capacity = max(0, max_concurrent_workers - running.total())
    if not capacity:
        return Selection([], running.total(), 0)
    queue = select(ExperimentTable.id, ExperimentTable.user_sunet_id, ExperimentTable.queued_at)
    queue = queue.where(ExperimentTable.status_type == "queued").order_by(ExperimentTable.queued_at, ExperimentTable.id)
    ahead, ranked = Counter(running), []
    for identity, user, queued_at in session.execute(queue):
        ranked.append((ahead[user], queued_at, identity))
        ahead[user] += 1
    chosen = sorted(ranked)[:capacity]
    rows = session.scalars(select(ExperimentTable).where(ExperimentTable.id.in_([row[2] for row in chosen])))
    by_id = {row.id: row for row in rows}
    return Selection(
        [by_id[identity] for _, _, identity in chosen], running.total(), sum(rank == 0 for rank, _, _ in chosen)
    )

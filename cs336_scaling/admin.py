"""What an instructor does: seed learners, make keys, export grades, queue failed experiments again.

Read next: `service/cli.py`.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from pathlib import Path

from sqlalchemy import func, select

from cs336_basics.runs.atomic import atomic_write
from cs336_scaling.budget import used_ms
from cs336_scaling.db.engine import SessionFactory, writing
from cs336_scaling.db.tables import ExperimentTable, FinalSubmissionTable, LossQueryTable, UserTable
from cs336_scaling.keys import hash_key, is_well_formed, new_key

HEADER = ["sunet_id", "api_key"]
LEARNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
GRADES = (
    "sunet_id", "used_seconds", "used_flops", "experiments", "completed", "loss_queries", "final_config_id",
    "predicted_final_loss", "submitted_at", "final_config",
)  # fmt: skip


def read_learners(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """(learner, key) of a CSV file with the header sunet_id,api_key; an empty key becomes a random one.

    Raises:
        ValueError: what is wrong, with its line; nothing is half read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        rows = list(csv.reader(text.splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not rows or rows[0] != HEADER:
        raise ValueError(
            f"{path} must begin with the line {','.join(HEADER)}; got {','.join(rows[0]) if rows else ''!r}"
        )
    learners = []
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != 2:
            raise ValueError(f"{path}, line {number}: expected 2 fields, got {len(row)}")
        learner, key = row
        if not LEARNER.fullmatch(learner):
            raise ValueError(f"{path}, line {number}: {learner!r} is no sunet_id (letters, digits and . _ @ + -)")
        if key and not is_well_formed(key):
            raise ValueError(f"{path}, line {number}: the key must have 8 digits, or be empty for a random one")
        learners.append((learner, key or new_key()))
    for index, what in enumerate(HEADER):
        twice = [value for value, number in Counter(row[index] for row in learners).items() if number > 1]
        if twice:
            raise ValueError(
                f"{path}: {len(twice)} {what} occur more than once" + (f", such as {twice[0]}" if index == 0 else "")
            )
    return learners


def seed_users(factory: SessionFactory, path: str | os.PathLike[str], *, keys_out: str | os.PathLike[str]) -> int:
    """Enter learners from a CSV file and write all keys to `keys_out`, readable by its owner only.

    Raises:
        ValueError: a malformed file, or learners are there already; nothing was entered.
    """
    learners = read_learners(path)
    with writing(factory) as session:
        present = session.scalars(select(func.count()).select_from(UserTable)).one()
        if present:
            raise ValueError(f"the database has {present} learners already; seeding needs an empty one")
        session.add_all([UserTable(sunet_id=learner, api_key=key) for learner, key in learners])
        session.flush()
        _write_keys(keys_out, learners)  # before the commit: a key that is stored is known to somebody
    return len(learners)


def give_new_key(factory: SessionFactory, sunet_id: str) -> str:
    """A fresh key for a learner, who is entered if unknown; the former key stops working."""
    if not LEARNER.fullmatch(sunet_id):
        raise ValueError(f"{sunet_id!r} is no sunet_id (letters, digits and . _ @ + -)")
    key = new_key()
    with writing(factory) as session:
        user = session.get(UserTable, sunet_id)
        if user is None:
            session.add(UserTable(sunet_id=sunet_id, api_key=key))
        else:
            user.api_key_hash = hash_key(key)
    return key


def export_grades(factory: SessionFactory, path: str | os.PathLike[str]) -> int:
    """Write one line per learner: what was spent, what was run, what was handed in."""
    with factory() as session:
        rows = []
        for user in session.scalars(select(UserTable).order_by(UserTable.sunet_id)):
            mine = ExperimentTable.user_sunet_id == user.sunet_id
            runs = session.scalars(select(func.count()).select_from(ExperimentTable).where(mine)).one()
            done = mine & (ExperimentTable.status_type == "completed")
            completed = session.scalars(select(func.count()).select_from(ExperimentTable).where(done)).one()
            asked = LossQueryTable.user_sunet_id == user.sunet_id
            queries = session.scalars(select(func.count()).select_from(LossQueryTable).where(asked)).one()
            final = session.get(FinalSubmissionTable, user.sunet_id)
            handed_in = ("", "", "", "") if final is None else (
                final.training_config.unique_id, repr(final.predicted_final_loss), final.submitted_at.isoformat(),
                final.training_config.model_dump_json(),
            )  # fmt: skip
            seconds = used_ms(session, user.sunet_id) / 1000
            rows.append((user.sunet_id, seconds, user.used_flops, runs, completed, queries, *handed_in))
    with atomic_write(path, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([GRADES, *rows])
    return len(rows)


def _write_keys(path: str | os.PathLike[str], learners: list[tuple[str, str]]) -> None:
    """A new file that only its owner can read; never over an old one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADER, *learners])
        file.flush()
        os.fsync(file.fileno())

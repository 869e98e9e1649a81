"""Boards, entries, verifications, tables: forged and malformed files are named, order does not matter, pages are golden."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest

from cs336_course.cli import main
from cs336_course.leaderboards.board import Board, Budget, load_board, load_boards
from cs336_course.leaderboards.closing import close_board
from cs336_course.leaderboards.entry import Artifact, Claim, Code, Entry, Run, load_entry
from cs336_course.leaderboards.judges.judging import JUDGES
from cs336_course.leaderboards.lint import changed_entries, lint
from cs336_course.leaderboards.pages import generated_files, html_pages, write_generated
from cs336_course.leaderboards.standings import standings
from cs336_course.leaderboards.verification import Measurement, Verification, verdict_of

SHIPPED = Path(__file__).parents[2] / "boards"
GOLDEN = Path(__file__).parents[1] / "fixtures" / "board_pages"
TODAY = date(2026, 3, 1)
BOARD = """
id = "tiny"
title = "A tiny board"
assignment = "basics"
kind = "scaling-prediction"
runs_required = 1
opens = 2026-01-01
closes = 2026-02-20
rules = "Be honest."
not_measured = "Everything else."

[metric]
name = "error"
unit = "%"
order = "asc"
decimals = 2
minimum = 0.0
maximum = 50.0
tolerance = 0.05
text = "how wrong"

[[divisions]]
id = "one"
title = "Division one"
budget = { cpu_s = 60.0 }

[[divisions]]
id = "two"
title = "Division two"
measured_here = false
"""


def entry(handle="ada", metric=2.0, **changes) -> Entry:
    digest = f"{sum(map(ord, handle)):064x}"
    values = dict(
        board="tiny", division="one", handle=handle, created="2026-02-01T10:00:00+00:00",
        claimed=Claim(metric, 0.1, 50.0, 55.0), code=Code("0" * 64), artifacts=(Artifact("code.zip", "1" * 64, 10),),
        description=f"What {handle} did.", ai_disclosure="none", runs=(Run(0, digest, digest[::-1], 50.0, 55.0),),
        curve=((1.0, 5.0), (50.0, 2.5)),
    )  # fmt: skip
    return Entry(**{**values, **changes})


def verification(of: Entry, value=2.1, error=0.1, **changes) -> Verification:
    measured = Measurement(value, error, {"answers": "passed"}, {"worst world, %": 2 * value})
    values = dict(
        entry=of.name, entry_sha256=of.sha256, verdict="verified", reason="", measured=measured, isolation="namespace",
        machine="a machine", verified="2026-02-02T10:00:00+00:00", secret_id="abc",
    )  # fmt: skip
    return Verification(**{**values, **changes})


@pytest.fixture
def boards(tmp_path):
    (tmp_path / "tiny.toml").write_text(BOARD)
    return tmp_path


def fill(boards: Path) -> list[Path]:
    """Five entries: two tied, one superseded, one rejected, one only claimed."""
    ada_old = entry("ada", 3.0, created="2026-01-05T10:00:00+00:00")
    ada, bob, eve, zoe = entry("ada"), entry("bob", 2.2), entry("eve", 0.5), entry("zoe", 1.0)
    paths = [e.write(boards) for e in (ada_old, ada, bob, eve, zoe)]
    paths += [
        verification(ada_old, 3.0).write(boards), verification(ada, 2.10).write(boards),
        verification(bob, 2.15).write(boards),
        verification(eve, verdict="rejected", reason="causality: <b>peeks</b>", measured=None).write(boards),
    ]  # fmt: skip
    return paths


def complaints(boards: Path) -> dict[str, str]:
    return {c.rule: f"{c.file} {c.text}" for c in lint(boards, today=TODAY)}


# the shipped boards


def test_shipped_boards_are_in_order():
    assert lint(SHIPPED) == []


@pytest.mark.parametrize("board", load_boards(SHIPPED).values(), ids=lambda b: b.id)
def test_shipped_boards_have_settings_their_judge_knows(board):
    from cs336_course.leaderboards.judges import accuracy, attention, filtered, loss, scaling, step, tokenizer
    from cs336_course.leaderboards.judges.judging import Judging

    kinds = {
        "loss": loss.LossSettings, "attention-time": attention.AttentionSettings, "step-time": step.StepSettings,
        "tokenizer-speed": tokenizer.TokenizerSettings, "scaling-prediction": scaling.ScalingSettings,
        "filtered-data": filtered.FilteredSettings, "accuracy": accuracy.AccuracySettings,
    }  # fmt: skip
    assert kinds.keys() == JUDGES.keys()
    for division in board.divisions:
        assert Judging(board, division, Path(), "public", b"").settings(kinds[board.kind])


@pytest.mark.parametrize("board", load_boards(SHIPPED).values(), ids=lambda b: b.id)
def test_every_division_that_is_measured_here_has_a_verified_baseline(board):
    for table in standings(SHIPPED, board):
        verified = [row for row in table.rows if row.entry.handle == "baseline" and row.status == "verified"]
        assert verified or not table.division.measured_here, f"{board.id}/{table.division.id}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = "tiny"', 'id = "other"', "must be the file's name"),
        ("opens = 2026-01-01", 'opens = "2026-01-01"', "opens"),
        ("closes = 2026-02-20", "closes = 2025-02-20", "before it opens"),
        ("tolerance = 0.05", "tolerance = 5.0", r"tolerance must lie in \[0, 1\)"),
        ('order = "asc"', 'order = "up"', "order must be one of"),
        ('rules = "Be honest."', 'rulez = "x"', "did you mean rules"),
        ('id = "two"', 'id = "one"', "distinct ids"),
        ("[metric]", "[metric", "tiny.toml"),
    ],
)
def test_malformed_boards_are_named(boards, old, new, message):
    (boards / "tiny.toml").write_text(BOARD.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_board(boards / "tiny.toml")


# entries


def test_an_entry_survives_its_file(boards):
    one = entry(env={"python": "3.11"})
    assert load_entry(one.write(boards)) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"handle": "Ada!"}, "handle"), ({"handle": "a--b"}, "handle"), ({"created": "2026-02-01T10:00:00"}, "time zone"),
        ({"created": "yesterday"}, "isoformat"), ({"description": " "}, "description"), ({"schema": 2}, "schema"),
        ({"claimed": Claim(float("nan"))}, "finite"), ({"artifacts": (Artifact("../x", "1" * 64, 1),)}, "inside"),
        ({"curve": ((0.0, 1.0),) * 101}, "at most 100"),
    ],
)  # fmt: skip
def test_entries_against_the_rules_cannot_be_made(change, message):
    with pytest.raises(ValueError, match=message):
        entry(**change)


def forge(boards: Path, change) -> None:
    path = entry().write(boards)
    values = json.loads(path.read_text())
    path.write_text(change(values, path) or json.dumps(values))


@pytest.mark.parametrize(
    ("change", "rule", "words"),
    [
        (lambda v, p: v["claimed"].update(metric=0.1), "edited", "whose name would be"),
        (lambda v, p: v.update(created="2026-01-15T10:00:00+00:00"), "edited", "2026-01-15"),
        (lambda v, p: p.read_text().replace("2.0", "NaN", 1), "malformed", "NaN"),
        (lambda v, p: v.pop("handle") and None, "malformed", "handle"),
        (lambda v, p: v.update(extra=1), "malformed", "extra"),
        (lambda v, p: "{", "malformed", "Expecting"),
        (lambda v, p: "[]", "malformed", ""),
    ],
    ids=["edited value", "backdated", "nan", "missing", "unknown", "broken", "list"],
)
def test_forged_files_are_refused_with_a_named_reason(boards, change, rule, words):
    forge(boards, change)
    found = complaints(boards)
    assert list(found) == [rule] and words in found[rule]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"claimed": Claim(51.0)}, "implausible"), ({"claimed": Claim(-0.1)}, "implausible"),
        ({"created": "2025-12-31T10:00:00+00:00"}, "period"), ({"created": "2026-02-21T10:00:00+00:00"}, "period"),
        ({"claimed": Claim(2.0, cpu_s=60.5)}, "budget"), ({"claimed": Claim(2.0)}, "budget"),
        ({"division": "three"}, "unknown"), ({"runs": ()}, "malformed"),
    ],
)  # fmt: skip
def test_lint_names_the_rule(boards, changes, rule):
    if rule != "budget" and "claimed" in changes:
        changes = {"claimed": dataclasses.replace(changes["claimed"], cpu_s=1.0)}
    entry(**changes).write(boards)
    assert list(complaints(boards)) == [rule]


def test_one_log_under_two_handles_is_refused(boards):
    entry("ada").write(boards)
    entry("bob", runs=entry("ada").runs, created="2026-02-03T10:00:00+00:00").write(boards)
    found = complaints(boards)
    assert list(found) == ["reused"] and "bob" in found["reused"] and "by ada" in found["reused"]


def test_verifications_must_fit_an_entry(boards):
    one = entry()
    one.write(boards)
    verification(one, entry_sha256="0" * 64).write(boards)
    verification(entry("bob")).write(boards)
    assert set(complaints(boards)) == {"edited", "orphan"}


def test_stale_tables_are_refused(boards):
    fill(boards)
    write_generated(boards)
    assert complaints(boards) == {}
    (boards / "README.md").write_text((boards / "README.md").read_text().replace("2.10", "1.10"))
    assert list(complaints(boards)) == ["stale"]


def test_a_pull_request_may_only_add_entries_of_its_author(boards):
    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(boards), "-c", "user.name=x", "-c", "user.email=x@x", *arguments],
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    first = entry("ada").write(boards)
    git("add", "-A")
    git("commit", "-qm", "first")
    entry("bob").write(boards)
    entry("eve").write(boards)
    first.write_text("{}")
    (boards / "tiny.toml").write_text(BOARD.replace("honest", "bold"))
    git("add", "-A")
    found = [str(c) for c in changed_entries(boards, "HEAD", "bob")]
    assert (
        len(found) == 3
        and any("never changed" in c for c in found)
        and any("another handle than bob" in c for c in found)
    )
    with pytest.raises(ValueError, match="cannot compare"):
        changed_entries(boards, "nowhere", "bob")


# standings and pages


def test_places_ties_and_statuses(boards):
    fill(boards)
    table = standings(boards, load_board(boards / "tiny.toml"))[0]
    rows = [(row.place, row.tied, row.entry.handle, row.status) for row in table.rows]
    assert rows == [(1, True, "ada", "verified"), (1, True, "bob", "verified"), (None, False, "zoe", "claimed"),
                    (None, False, "eve", "rejected")]  # fmt: skip
    assert table.rows[0].value == 2.10 and standings(boards, load_board(boards / "tiny.toml"))[1].rows == ()


def test_a_new_claim_waits_beside_the_measured_entry(boards):
    fill(boards)
    for day, value in ((3, 0.2), (4, 0.1)):
        later = entry("ada", value, created=f"2026-02-0{day}T10:00:00+00:00")
        later.write(boards)
    verification(later, verdict="rejected", measured=None).write(boards)
    table = standings(boards, load_board(boards / "tiny.toml"))[0]
    assert [(row.entry.handle, row.value) for row in table.rows[:2]] == [("ada", 2.10), ("bob", 2.15)]


def test_larger_is_better_on_the_other_boards(boards):
    (boards / "tiny.toml").write_text(BOARD.replace('"asc"', '"desc"'))
    for handle, value in (("ada", 1.0), ("bob", 5.0), ("eve", 3.0)):
        one = entry(handle)
        one.write(boards)
        verification(one, value).write(boards)
    table = standings(boards, load_board(boards / "tiny.toml"))[0]
    assert [(row.place, row.entry.handle) for row in table.rows] == [(1, "bob"), (2, "eve"), (3, "ada")]


def test_the_order_of_files_changes_nothing(boards, tmp_path_factory):
    paths = fill(boards)
    expected = generated_files(boards)
    for seed in range(3):
        copy = tmp_path_factory.mktemp("copy")
        shuffled = [boards / "tiny.toml", *paths]
        random.Random(seed).shuffle(shuffled)
        for path in shuffled:
            target = copy / path.relative_to(boards)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        assert generated_files(copy) == expected
    assert html_pages(copy) == html_pages(boards)


def test_generated_tables_are_golden(boards):
    """tests/fixtures/board_pages holds what `write_generated` made of `fill`, read and found right by a person."""
    fill(boards)
    for name, content in generated_files(boards).items():
        assert content == (GOLDEN / name).read_text(encoding="utf-8"), name


def test_pages_show_participants_text_as_text(boards):
    one = entry("ada", description="<script>alert(1)</script> [x](javascript:1) `code`")
    one.write(boards)
    verification(one, reason="<img src=x>").write(boards)
    page = html_pages(boards)["tiny.html"]
    assert "<script>" not in page and "<img" not in page and "javascript:1" in page and 'href="javascript' not in page
    assert page.count("<svg") == 1


# verdicts


@pytest.mark.parametrize(
    ("claimed", "measured", "order", "verdict"),
    [
        (2.0, 2.05, "asc", "verified"), (2.0, 1.0, "asc", "verified"), (2.0, 3.0, "asc", "unreproduced"),
        (2.0, 2.6, "asc", "verified"), (2.0, 1.0, "desc", "unreproduced"), (2.0, 9.0, "desc", "verified"),
    ],
)  # fmt: skip
def test_verdicts(boards, claimed, measured, order, verdict):
    """Allowed: 4 sqrt(0.1^2 + 0.1^2) = 0.566, and a twentieth of the measurement."""
    board = load_board(boards / "tiny.toml")
    board = dataclasses.replace(board, metric=dataclasses.replace(board.metric, order=order))
    found = Measurement(measured, 0.1, {"answers": "passed"})
    assert verdict_of(board, Claim(claimed, 0.1), found)[0] == verdict
    assert verdict_of(board, Claim(claimed, 0.1), dataclasses.replace(found, probes={"batch": "leaks"})) == (
        "rejected",
        "batch: leaks",
    )


def test_unknown_times_break_a_budget():
    assert Budget(cpu_s=60.0).exceeded(cpu_s=None, wall_s=1.0) == "an unknown number of CPU seconds of 60"
    assert Budget(cpu_s=60.0).exceeded(cpu_s=60.0, wall_s=None) is None
    assert Budget().exceeded(cpu_s=None, wall_s=None) is None


# closing


def test_a_closed_board_stays_as_it_is(boards):
    board = load_board(boards / "tiny.toml")
    fill(boards)
    with pytest.raises(ValueError, match="not verified yet"):
        close_board(boards, board, TODAY)
    zoe = entry("zoe", 1.0)
    verification(zoe, 1.0).write(boards)
    with pytest.raises(ValueError, match="is open until"):
        close_board(boards, board, date(2026, 2, 20))
    final = json.loads(close_board(boards, board, TODAY).read_text())
    assert [row["handle"] for row in final["standings"]["one"]] == ["zoe", "ada", "bob", "eve"]
    write_generated(boards)
    assert complaints(boards) == {}
    entry("late").write(boards)
    (boards / "entries" / "tiny" / f"{zoe.name}.json").unlink()
    (boards / "verifications" / f"{zoe.name}.json").unlink()
    found = [c.text for c in lint(boards, today=TODAY) if c.rule == "closed"]
    assert len(found) == 2 and "after the board was closed" in found[0] and "gone or changed" in found[1]


# the command


def test_commands(boards, tmp_path_factory, capsys):
    fill(boards)
    site, at = tmp_path_factory.mktemp("site"), ["--boards", str(boards)]
    assert main(["leaderboard", "lint", *at]) == 1
    assert "stale: README.md" in capsys.readouterr().out
    assert main(["leaderboard", "html", str(site), *at]) == 0
    assert {path.name for path in site.iterdir()} == {"index.html", "tiny.html"}
    assert main(["leaderboard", "list", *at, "--json"]) == 0
    assert "2.10 % by ada" in capsys.readouterr().out
    assert main(["leaderboard", "show", "tiny", *at, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads((boards / "leaderboard.json").read_text())
    assert main(["leaderboard", "show", "tiny", *at]) == 0
    assert "1=" in capsys.readouterr().out
    assert main(["leaderboard", "show", "tinny", *at]) == 1
    assert "there are tiny" in capsys.readouterr().err


def test_boards_are_data_of_one_class():
    assert all(isinstance(board, Board) for board in load_boards(SHIPPED).values())

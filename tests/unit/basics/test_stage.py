"""Stages with trivial work: which of them run, and in what state their files and the report are left."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cs336_basics.runs.report import Paragraph, Section
from cs336_basics.runs.stage import Stage, run_stages

pytest.importorskip("markdown_it")


@dataclasses.dataclass(frozen=True)
class Options:
    number: int = 1
    device: str = "cpu"


class Pipeline:
    """Two stages: `one` writes its number, `two` doubles what it reads. `calls` counts their runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.fail_in: str | None = None
        self.forget = False

    def one(self, directory: Path, options: Options) -> None:
        self.work("one", directory, str(options.number))

    def two(self, directory: Path, options: Options) -> None:
        self.work("two", directory, str(2 * int((directory / "one/value").read_text())))

    def work(self, name: str, directory: Path, value: str) -> None:
        self.calls.append(name)
        (directory / name).mkdir(exist_ok=True)
        with open(directory / name / "attempts", "a") as file:
            file.write("x")
        if self.fail_in == name:
            raise KeyboardInterrupt
        if not self.forget:
            (directory / name / "value").write_text(value)

    def run(self, first: Options = Options(), second: Options = Options(), version: int = 1) -> list[str]:  # noqa: B008
        def section(name: str):
            return lambda directory: Section(name, [Paragraph((directory / name / "value").read_text())])

        stages = [
            Stage("one", "first", first, (), ("one/value",), self.one, section("one")),
            Stage("two", "second", second, ("one/value",), ("two/value",), self.two, section("two"), version),
        ]
        self.calls = []
        _, ran = run_stages(stages, self.folder, title="Pipeline", introduction="Begin.", say=lambda line: None)
        assert ran == self.calls
        return ran

    def value(self, name: str) -> str:
        return (self.folder / name / "value").read_text()

    def attempts(self, name: str) -> int:
        return len((self.folder / name / "attempts").read_text())


@pytest.fixture
def pipeline(tmp_path):
    return Pipeline(tmp_path)


def test_each_stage_runs_once(pipeline):
    assert pipeline.run() == ["one", "two"]
    assert (pipeline.value("one"), pipeline.value("two")) == ("1", "2")
    assert pipeline.run() == []
    page = (pipeline.folder / "report.md").read_text()
    assert page == "# Pipeline\n\nBegin.\n\n## one\n\n1\n\n## two\n\n2\n"
    assert (pipeline.folder / "report.html").is_file()


def test_device_is_free_but_other_options_are_not(pipeline):
    pipeline.run()
    assert pipeline.run(Options(device="cuda"), Options(device="cuda")) == []
    assert pipeline.run(Options(number=5)) == ["one", "two"]
    assert pipeline.value("two") == "10"
    assert pipeline.attempts("one") == 1  # the stale folder was removed
    assert pipeline.run(Options(number=5), Options(number=3)) == ["two"]
    assert pipeline.run(Options(number=5), Options(number=3), version=2) == ["two"]


@pytest.mark.parametrize("damage", ["delete", "change"])
def test_a_damaged_output_is_made_again(pipeline, damage):
    pipeline.run()
    output = pipeline.folder / "one/value"
    output.unlink() if damage == "delete" else output.write_text("7")
    assert pipeline.run() == ["one"]  # its output is as before, so the second stage still fits
    assert pipeline.value("one") == "1"


def test_an_interrupted_stage_goes_on_with_its_files(pipeline):
    pipeline.fail_in = "two"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    assert "## one" in (pipeline.folder / "report.md").read_text()
    assert "## two" not in (pipeline.folder / "report.md").read_text()
    pipeline.fail_in = None
    assert pipeline.run() == ["two"]
    assert pipeline.attempts("two") == 2


def test_an_interrupted_stage_with_other_options_starts_afresh(pipeline):
    pipeline.fail_in = "two"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run()
    pipeline.fail_in = None
    assert pipeline.run(second=Options(number=4)) == ["two"]
    assert pipeline.attempts("two") == 1


def test_a_stage_without_its_output_is_an_error(pipeline):
    pipeline.forget = True
    with pytest.raises(RuntimeError, match="'one' ended without its outputs .*one/value"):
        pipeline.run()
    assert "outputs" not in json.loads((pipeline.folder / "stages/one.json").read_text())


def test_wrong_stages_are_refused(tmp_path):
    def stage(name: str, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ("a/x",)) -> Stage:
        return Stage(name, "t", Options(), inputs, outputs, lambda d, o: None, lambda d: Section("s"))

    with pytest.raises(ValueError, match="outputs in its own folder b/"):
        stage("b")
    with pytest.raises(ValueError, match="distinct names"):
        run_stages([stage("a"), stage("a")], tmp_path, title="t")
    with pytest.raises(FileNotFoundError, match="reads .*no/file.*put the stage that makes it before"):
        run_stages([stage("a", inputs=("no/file",))], tmp_path, title="t")

"""The commands end to end in miniature: a crawl, a run of it, the comparison of models, the tour's stage, the configs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from cs336_basics.data import open_tokens, read_manifest
from cs336_basics.model import TransformerLM
from cs336_basics.runs.config import load_config
from cs336_basics.runs.stage import run_stages
from cs336_course.cli import main
from cs336_data.cli import CONFIG_FOLDER
from cs336_data.filter_for_model import FilterForModelConfig, TrainerConfig, run_filter_for_model, train_config
from cs336_data.pipeline_config import PipelineConfig
from cs336_data.steps import build_steps
from tests.unit.data.pipeline_cases import SMALL, make_config, read_jsonl, write_documents

for package in ("fastwarc", "resiliparse", "fasttext", "matplotlib", "markdown_it"):
    pytest.importorskip(package)

TINY = TrainerConfig(
    d_model=16, num_layers=1, num_heads=2, context_length=16, batch_size=2, num_steps=4, warmup_steps=1, eval_every=2,
    eval_tokens=200, device="cpu",
)  # fmt: skip


def test_a_crawl_and_a_run_by_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(SMALL).items()]
    assert main(["data", "synthesize", "crawl", *sizes, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    config = tmp_path / "small.toml"
    config.write_text(
        'inputs = ["crawl/warc/*.gz"]\ntruth = "crawl"\nsteps = [{ name = "language" }, { name = "pii" }]\n'
        'corpus_steps = [{ name = "dedup_documents" }, { name = "dedup_near" }, { name = "dedup_lines" },\n'
        '  { name = "decontaminate", options = { evaluation = ["crawl/evaluation.jsonl"] } },\n'
        '  { name = "min_words", options = { words = 20 } }]\n'
    )
    assert main(["data", "run", str(config), "--out", "run", "--workers", "1", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    documents = [d for path in sorted(Path("run/documents").glob("*.gz")) for d in read_jsonl(path)]
    assert summary["records"] == made["pages"] and summary["documents"] == len(documents) > 10
    truth = {page["record_id"]: page for page in read_jsonl(Path("crawl/truth.jsonl"))}
    assert not any(truth[d["id"]]["contaminated"] for d in documents)
    assert all(len(d["text"].split()) >= 20 for d in documents)
    report = Path("run/report.html").read_text()
    for heading in ("Funnel", "Measured against the truth", "Threshold sweeps", "Near duplicates",
                    "Extraction side by side", "Kept and rejected documents", "Damage"):  # fmt: skip
        assert f">{heading}</h2>" in report
    card = Path("run/dataset_card.md").read_text()
    assert f"{summary['documents']:,} documents out of {summary['records']:,} records in 3 files" in card
    assert main(["data", "run", str(config), "--out", "run", "--json"]) == 0  # complete: says the same at once
    assert json.loads(capsys.readouterr().out) == summary


def test_two_arms_train_equally_long_and_the_run_resumes(tmp_path):
    prose = "The ferry left the harbour at noon, and nobody on board had seen the storm that was gathering. "
    source = write_documents(tmp_path / "in.jsonl", [prose * 3 + str(i) for i in range(30)] + ["x"] * 20)
    steps = make_config(source).steps
    config = FilterForModelConfig(
        pipeline=make_config(source, steps=steps), validation=write_documents(tmp_path / "valid.jsonl", [prose] * 3),
        vocab_size=270, train=TINY,
    )  # fmt: skip
    results = run_filter_for_model(config, tmp_path / "run", say=lambda line: None)
    filtered, unfiltered = results["arms"]["filtered"], results["arms"]["unfiltered"]
    assert filtered["trained_tokens"] == unfiltered["trained_tokens"] == 4 * 2 * 16
    assert filtered["documents"] < unfiltered["documents"] == 50
    assert read_manifest(tmp_path / "run" / "tokens" / "filtered.bin")["num_tokens"] == filtered["num_tokens"]
    for arm in ("filtered", "unfiltered"):
        log = read_jsonl(tmp_path / "run" / "training" / f"{arm}-0" / "log.jsonl")
        losses = [record["validation_loss"] for record in log if "validation_loss" in record]
        assert results["arms"][arm]["losses"] == [pytest.approx(losses[-1])]
    again = run_filter_for_model(config, tmp_path / "run", say=lambda line: None)
    assert again == results
    assert "gain by filtering" in (tmp_path / "run" / "report.md").read_text()


def test_wrong_combinations_are_refused(tmp_path):
    pipeline = make_config("in")
    with pytest.raises(ValueError, match="set either crawl"):
        FilterForModelConfig(pipeline)
    with pytest.raises(ValueError, match="set the tokenizer"):
        FilterForModelConfig(pipeline, validation=Path("valid.bin"))


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configs_load_and_their_steps_exist(path):
    if path.stem == "web-en":
        config = load_config(PipelineConfig, path)
    else:
        config = load_config(FilterForModelConfig, path).pipeline
    assert build_steps(config.steps)


@pytest.mark.parametrize(("year", "parameters", "tokens"), [("2025", 162e6, 13.1e9), ("2026", 430e6, 8.6e9)])
def test_course_configs_have_the_course_sizes(year, parameters, tokens, tmp_path):
    import torch

    config = load_config(FilterForModelConfig, CONFIG_FOLDER / f"leaderboard-{year}.toml")
    train = train_config(config, 50257, 0, tmp_path / "a.bin", tmp_path / "b.bin")
    with torch.device("meta"):
        model = TransformerLM(train.model)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.03)
    assert train.tokens_per_step * train.num_steps == pytest.approx(tokens, rel=0.01)


@pytest.mark.long  # test_tour.py runs the stage as well
def test_the_tour_stage_grades_the_pipeline(tmp_path, monkeypatch):
    from cs336_data import filter_for_model, tour_data

    options = tour_data.DataStageOptions(articles=24, reference=1, vocab_size=300, num_steps=4, seed=0, device="cpu")
    monkeypatch.setattr(tour_data, "TrainerConfig", lambda **given: dataclasses.replace(TINY, num_steps=4))
    assert filter_for_model.TrainerConfig is TrainerConfig
    _, ran = run_stages([tour_data.data_stage(options)], tmp_path, title="t", say=lambda line: None)
    assert ran == ["data"]
    text = (tmp_path / "report.md").read_text()
    assert "Measured against the truth" in text and "gain by filtering" in text and "figures/funnel.svg" in text
    arms = json.loads((tmp_path / tour_data.RESULTS).read_text())["arms"]
    assert len(open_tokens(tmp_path / tour_data.RUN / "tokens" / "filtered.bin")) == arms["filtered"]["num_tokens"]
    _, again = run_stages([tour_data.data_stage(options)], tmp_path, title="t", say=lambda line: None)
    assert again == []

"""The ablation runner on a toy: its tables against the runs' own files, divergence, kill and resume, refusals."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cs336_basics.ablations.catalogue import ABLATIONS, at_batch_size, choose
from cs336_basics.ablations.cli import Ablate, ablation_config
from cs336_basics.ablations.corpus import CorpusOptions
from cs336_basics.ablations.experiment import first_blow_up
from cs336_basics.ablations.stages import AblationConfig, run_ablations
from cs336_basics.model import TransformerLM
from cs336_basics.runs.config import config_differences, config_to_dict
from cs336_basics.training import Diverged, train
from cs336_basics.training_config import OptimizerConfig
from cs336_basics.training_loss import Loss, TrainingLoss
from cs336_course import cli
from tests.unit.basics.tiny_run import LIMIT_S, differences

pytest.importorskip("matplotlib")
pytest.importorskip("markdown_it")
pytest.importorskip("tyro")
ROOT = Path(__file__).parents[3]
NAMES = ("norm", "learning_rate", "batch_size")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The tiny run of the other tests, without dropout and samples, on tokens with a pretended floor."""
    from tests.unit.basics.tiny_run import tiny_config, write_tiny_corpus

    folder = tmp_path_factory.mktemp("tokens")
    write_tiny_corpus(folder)
    manifest = folder / "valid.bin.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"nats": 50.0}))
    config = tiny_config(folder, num_steps=12, gradient_accumulation=1, sample_tokens=0, log_every=2, eval_every=4)
    return replace(config, model=replace(config.model, attn_pdrop=0.0, residual_pdrop=0.0))


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A finished toy job (directory, summaries); not to be changed."""
    directory = tmp_path_factory.mktemp("ablations") / "a"
    config = AblationConfig(base, ablations=NAMES, seeds=2, device="cpu")
    _, summaries, ran = run_ablations(config, directory, progress=False)
    assert ran == ["baseline", *NAMES, "overview"]
    return directory, summaries


def own_numbers(directory, stage, variant, count=2):
    """Final losses of a variant's runs, read from the runs themselves."""
    runs = [directory / stage / variant / f"seed_{index}" for index in range(count)]
    return [json.loads((run / "summary.json").read_text())["validation_loss"] for run in runs]


def by_label(summaries):
    return {summary.label: summary for summary in summaries}


@pytest.mark.parametrize(
    ("label", "stage", "variant"),
    [
        ("baseline", "baseline", "baseline"), ("no norm", "norm", "no_norm"), ("post-norm", "norm", "post_norm"),
        ("learning rate 0.001", "learning_rate", "lr_0.001"),
        ("batch 2, 24 steps", "batch_size", "batch_2"), ("batch 16, 3 steps", "batch_size", "batch_16"),
    ],
)  # fmt: skip
def test_the_tables_say_what_the_runs_wrote(base, finished, label, stage, variant):
    directory, summaries = finished
    summary = by_label(summaries)[label]
    losses, baseline = own_numbers(directory, stage, variant), own_numbers(directory, "baseline", "baseline")
    floor = 50.0 / (base.valid_tokens.stat().st_size / 2)
    assert summary.loss == pytest.approx(statistics.mean(losses), rel=1e-12)
    assert summary.spread == pytest.approx(statistics.stdev(losses), rel=1e-12)
    assert summary.difference == pytest.approx(statistics.mean(losses) - statistics.mean(baseline), abs=1e-12)
    assert summary.above_floor == pytest.approx(statistics.mean(losses) / floor - 1)
    page = (directory / "report.md").read_text()
    difference = f"{statistics.mean(losses) - statistics.mean(baseline):+.4f}"
    row = f"| {label} | {summary.parameters:,} | {statistics.mean(losses):.4f} +- {statistics.stdev(losses):.4f} |"
    assert row in page and f"| {difference} | {summary.tokens:,} |" in page


def test_all_seeds_differ_and_all_batches_read_the_same_tokens(finished):
    directory, summaries = finished
    losses = own_numbers(directory, "baseline", "baseline")
    assert losses[0] != losses[1]
    assert {s.tokens for s in summaries if s.label.startswith("batch")} == {12 * 4 * 16}


def test_the_baseline_is_an_ordinary_training_run(base, finished, tmp_path):
    train(base, tmp_path / "straight", progress=False)
    run = finished[0] / "baseline" / "baseline" / "seed_0"
    assert differences(run, tmp_path / "straight") == []


def test_a_run_that_diverges_is_a_result(finished):
    directory, summaries = finished
    summary = by_label(summaries)["learning rate 10"]
    records = [
        [json.loads(line) for line in (directory / f"learning_rate/lr_10/seed_{i}/log.jsonl").read_text().splitlines()]
        for i in range(2)
    ]
    steps = []
    for log in records:
        high = [r["step"] for r in log if max(r["train_loss"], r.get("validation_loss", 0)) > log[0]["train_loss"] + 1]
        steps += high[:1]
    assert steps and summary.diverged_at == min(steps)
    assert summary.loss is summary.difference is summary.spread is None
    page = (directory / "report.md").read_text()
    assert f"| diverged at step {summary.diverged_at} |" in page
    assert "**learning rate 10** diverged at step" in page


def scaled(loss, factor):
    return Loss(loss.objective * factor, loss.cross_entropy * factor)


def test_a_loss_that_becomes_infinite_ends_the_run_as_a_result(base, tmp_path, monkeypatch):
    real = TrainingLoss.__call__
    calls = []

    def overflow(self, inputs, targets):
        calls.append(1)
        return scaled(real(self, inputs, targets), math.inf if len(calls) % 7 == 0 else 1.0)

    monkeypatch.setattr(TrainingLoss, "__call__", overflow)
    _, summaries, _ = run_ablations(AblationConfig(base, ablations=("positions",)), tmp_path / "a", progress=False)
    assert [s.diverged_at for s in summaries] == [7, 7]  # runs of 12 steps: calls 7 and 14, the second run's 7th
    assert "diverged at step 7" in (tmp_path / "a" / "report.md").read_text()


@pytest.mark.parametrize(("loss", "error"), [(math.nan, "training loss became nan"), (math.inf, "became inf")])
def test_training_says_where_it_diverged(base, tmp_path, monkeypatch, loss, error):
    real = TrainingLoss.__call__
    monkeypatch.setattr(TrainingLoss, "__call__", lambda self, x, y: scaled(real(self, x, y), loss))
    with pytest.raises(Diverged, match=error) as caught:
        train(base, tmp_path / "run", progress=False)
    assert caught.value.step == 1 and isinstance(caught.value, ValueError)


def test_first_blow_up():
    log = [{"step": 1, "train_loss": 5.0}, {"step": 2, "train_loss": 5.9}, {"step": 3, "train_loss": 1.0}]
    assert first_blow_up(log) is None
    assert (
        first_blow_up([*log, {"step": 4, "train_loss": 2.0, "validation_loss": 6.1}, {"step": 5, "train_loss": 9.0}])
        == 4
    )
    assert first_blow_up([]) is None


def test_the_report_is_whole_and_needs_no_network(finished):
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 * 4 + 1  # two views of four comparisons, and the gradient norms
    assert re.findall(r'(?:src|href)="(?!#|data:)', page) == []
    for ablation in choose(NAMES):
        assert ablation.title in page


def test_a_second_call_does_nothing_and_more_ablations_keep_the_runs(base, finished, tmp_path):
    directory = tmp_path / "a"
    config = AblationConfig(base, ablations=("positions",), device="cpu")
    first = run_ablations(config, directory, progress=False)
    assert run_ablations(config, directory, progress=False)[1:] == (first[1], [])
    before = (directory / "positions/nope/seed_0/model.pt").stat().st_mtime_ns
    more = replace(config, ablations=("positions", "feed_forward"))
    _, summaries, ran = run_ablations(more, directory, progress=False)
    assert ran == ["feed_forward", "overview"] and summaries[:2] == first[1]
    assert (directory / "positions/nope/seed_0/model.pt").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="train.num_steps: was 12, now 13"):
        run_ablations(replace(config, train=replace(base, num_steps=13)), directory, progress=False)


# What is compared with what


def test_every_variant_differs_in_what_it_is_about(base):
    allowed = {
        "norm": {"model.norm", "optimizer.max_learning_rate"},
        "positions": {"model.positions"},
        "feed_forward": {"model.ffn", "model.d_ff"},
        "parallel": {"model.norm"},
        "learning_rate": {"optimizer.max_learning_rate"},
        "batch_size": {"batch_size", "num_steps", "log_every", "eval_every", "checkpoint_every",
                       "optimizer.max_learning_rate", "optimizer.warmup_steps"},
    }  # fmt: skip
    for ablation in ABLATIONS:
        variants = ablation.variants(base)
        assert len({v.name for v in variants}) == len(variants) >= 1
        for variant in variants:
            changed = config_differences(config_to_dict(base), config_to_dict(variant.config))
            assert changed and set(changed) <= allowed[ablation.name], variant


@pytest.mark.parametrize("name", ["ablations", "ablations-quick"])
def test_swiglu_and_silu_have_as_many_weights(name):
    train = ablation_config(Ablate(quick=name.endswith("quick"))).train
    (variant,) = choose(["feed_forward"])[0].variants(train)
    assert variant.config.model.d_ff == 4 * train.model.d_model
    counts = [sum(p.numel() for p in TransformerLM(c.model).parameters()) for c in (train, variant.config)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_batches_of_every_size_read_the_same_tokens(factor):
    train = ablation_config(Ablate()).train
    scaled = at_batch_size(train, factor)
    assert scaled.batch_size * scaled.num_steps == train.batch_size * train.num_steps
    assert scaled.optimizer.max_learning_rate == pytest.approx(5e-3 * math.sqrt(factor), rel=1e-5)


def test_a_batch_of_one_and_a_rate_with_a_lowest_value(base):
    one = replace(base, batch_size=1, optimizer=OptimizerConfig(min_learning_rate=1e-4, warmup_steps=5))
    sizes = [variant.config.batch_size for variant in choose(["batch_size"])[0].variants(one)]
    assert sizes == [2, 4]
    for variant in choose(["learning_rate"])[0].variants(one):
        o = variant.config.optimizer
        assert o.max_learning_rate / o.min_learning_rate == pytest.approx(10)


# The command


CHILD = "import sys; from cs336_course import cli; sys.exit(cli.main(sys.argv[1:]))"


def arguments(base, out):
    """A job of three runs from a TOML file, 60 steps each, with checkpoints every 3."""
    toml = out.parent / "base.toml"
    model = "\n".join(
        f"{key} = {json.dumps(value)}"
        for key, value in config_to_dict(base.model).items()
        if key in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads", "d_ff")
    )
    toml.write_text(
        f"train_tokens = {json.dumps(str(base.train_tokens))}\nvalid_tokens = {json.dumps(str(base.valid_tokens))}\n"
        f"num_steps = 60\nbatch_size = 4\ncheckpoint_every = 3\nlog_every = 2\neval_every = 30\n"
        f"[optimizer]\nwarmup_steps = 3\n[model]\n{model}\n"
    )
    return ["basics", "ablate", "--config", str(toml), "--ablations", "positions", "feed_forward", "--out", str(out),
            "--device", "cpu", "--set", "optimizer.max_learning_rate=0.01", "--set", "seed=4", "--json"]  # fmt: skip


def start(argv):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, *argv], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop_when_there_is(child, path, number):
    """Send a signal once a file is there."""
    end = time.monotonic() + LIMIT_S
    while child.poll() is None and not path.exists() and time.monotonic() < end:
        time.sleep(0.005)
    child.send_signal(number)
    return child.communicate(timeout=LIMIT_S)


def without_seconds(value):
    """A JSON value without times."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key not in ("seconds", "report")}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


@pytest.mark.long
def test_a_killed_and_interrupted_job_ends_in_the_same_numbers(base, tmp_path, capsys):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert cli.main(arguments(base, straight)) == 0
    expected = json.loads(capsys.readouterr().out)
    assert [v["label"] for v in expected["variants"]] == ["baseline", "no positions (NoPE)", "SiLU, d_ff 48"]
    argv = arguments(base, broken)
    moments = (
        (broken / "baseline/baseline/seed_0/checkpoints/step_00000030.pt", signal.SIGKILL),
        (broken / "positions/nope/seed_0/checkpoints/step_00000012.pt", signal.SIGINT),
        (broken / "feed_forward/silu/seed_0/checkpoints/step_00000033.pt", signal.SIGKILL),
    )
    for path, number in moments:
        child = start(argv)
        _, err = stop_when_there_is(child, path, number)
        assert child.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), err
        if number == signal.SIGINT:
            assert "give the same command again to go on" in err
    child = start(argv)
    out, err = child.communicate(timeout=LIMIT_S)
    assert child.returncode == 0, err
    assert without_seconds(json.loads(out)) == without_seconds(expected)
    for run in sorted(straight.glob("*/*/seed_0")):
        assert differences(broken / run.relative_to(straight), run) == []
    for name in ("baseline", "positions", "feed_forward", "overview"):
        results = [json.loads((d / name / "results.json").read_text()) for d in (broken, straight)]
        assert without_seconds(results[0]) == without_seconds(results[1])


def test_text_of_ones_own(tmp_path, capsys):
    text = "the cat sat.\n<|endoftext|>a dog ran to the cat.\n<|endoftext|>"
    (tmp_path / "corpus").mkdir()
    for split, count in (("train", 60), ("valid", 6)):
        (tmp_path / "corpus" / f"{split}.txt").write_text(text * count)
    sizes = ["model.context_length=16", "model.d_model=24", "model.num_heads=2", "num_steps=6", "eval_every=3",
             "optimizer.warmup_steps=1", "model.d_ff=32"]  # fmt: skip
    argv = ["basics", "ablate", "--quick", "--corpus", str(tmp_path / "corpus"), "--out", str(tmp_path / "out"),
            "--vocab-size", "270", "--ablations", "parallel", "--json", "--device", "cpu"]  # fmt: skip
    assert cli.main([*argv, *(part for size in sizes for part in ("--set", size))]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [v["label"] for v in result["variants"]] == ["baseline", "parallel layers"]
    assert result["variants"][0]["above_floor"] is None  # nobody knows the entropy of this text
    weights = 2 * 270 * 24 + 2 * (4 * 24 * 24 + 3 * 24 * 32 + 2 * 24) + 24
    assert result["variants"][0]["parameters"] == weights


def test_stories_are_written_when_nothing_is_given(tmp_path, base):
    small = replace(
        base, model=replace(base.model, vocab_size=300, context_length=32), num_steps=2, windows="documents",
        eval_by="documents", optimizer=OptimizerConfig(warmup_steps=1),
    )  # fmt: skip
    corpus = CorpusOptions(vocab_size=300, num_train=40, num_valid=4)
    _, (baseline, _), ran = run_ablations(
        AblationConfig(small, corpus, ("positions",)), tmp_path / "out", progress=False
    )
    assert ran[0] == "corpus"
    stories = json.loads((tmp_path / "out/corpus/text/manifest.json").read_text())
    tokens = json.loads((tmp_path / "out/corpus/valid.bin.json").read_text())
    floor = stories["valid"]["nats"] / tokens["num_tokens"]
    assert baseline.above_floor == pytest.approx(baseline.loss / floor - 1)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--ablations", "norms"], "unknown ablation 'norms'; did you mean norm?"),
        (["--seeds", "0"], "seeds must be at least 1; got 0"),
        (["--set", "model.ffn=gelu"], "feed_forward compares SwiGLU with SiLU, but the baseline has ffn='gelu'"),
        (["--set", "model.d_modle=64"], "unknown config key model.d_modle (ModelConfig has no such field); did you "
                                        "mean model.d_model?"),
        (["--corpus", "nowhere"], "no nowhere/train.txt"),
        (["--config", "nowhere"], "no config file nowhere"),
        (["--config", "ablations", "--vocab-size", "300"], "drop --corpus and --vocab-size, or --config"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_a_line(tmp_path, capsys, argv, said):
    assert cli.main(["basics", "ablate", "--out", str(tmp_path / "out"), *argv]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "said"),
    [("batch_sise", "did you mean batch_size?"), ("[model]\nnum_layer", "did you mean model.num_layers?"),
     ("[optimizer]\nmax_learnin_rate", "did you mean optimizer.max_learning_rate?")],
)  # fmt: skip
def test_an_unknown_key_of_a_config_file_names_the_nearest(tmp_path, capsys, key, said):
    (tmp_path / "wrong.toml").write_text(f"{key} = 4\n")
    assert cli.main(["train", "--config", str(tmp_path / "wrong.toml"), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "unknown config key" in message and said in message

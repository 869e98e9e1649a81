"""Training runs and comparisons fed by packers: stopped after every step, they end as if nothing had happened."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from cs336_basics.objectives.catalogue import OBJECTIVES
from cs336_basics.objectives.comparison import CorpusOptions, ObjectiveRun, TrainingOptions, write_corpus
from cs336_basics.objectives.stages import ComparisonConfig, run_comparison
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.training import _Trainer, train
from cs336_basics.training_loss import TrainingLoss
from cs336_basics.training_strategy import SingleProcess
from tests.unit.basics.tiny_run import differences

STEPS = 6


@pytest.mark.parametrize("windows", ["stream", "best-fit"])
def test_training_resumed_after_every_step_equals_the_undisturbed_run(tmp_path, make_config, windows) -> None:
    config = make_config(
        windows=windows, num_steps=STEPS, checkpoint_every=1, keep_checkpoints=99, sample_tokens=0, eval_every=3,
    )  # fmt: skip
    train(config, tmp_path / "whole", progress=False)
    for step in range(1, STEPS):
        copy = tmp_path / f"from_{step}"
        shutil.copytree(tmp_path / "whole", copy)
        for later in range(step + 1, STEPS + 1):
            (copy / "checkpoints" / f"step_{later:08d}.pt").unlink()
        manifest = json.loads((copy / "manifest.json").read_text())
        (copy / "manifest.json").write_text(json.dumps(manifest | {"status": "interrupted"}))
        (copy / "model.pt").unlink()
        train(config, copy, progress=False)
        assert differences(copy, tmp_path / "whole") == []


@pytest.mark.parametrize("windows", ["stream", "best-fit"])
def test_training_reads_the_rows_that_the_windows_name(tmp_path, make_config, tokens, windows, monkeypatch) -> None:
    seen = []
    plain = _Trainer._next_batch
    monkeypatch.setattr(_Trainer, "_next_batch", lambda self: seen.append(plain(self)) or seen[-1])
    train(make_config(windows=windows, num_steps=6, sample_tokens=0), tmp_path / "run", progress=False)
    rows = np.concatenate([torch.cat((x[:, :1], y), dim=1).numpy() for x, y in seen])
    assert rows.shape == (6 * 2 * 4, 17)
    if windows == "stream":
        assert np.array_equal(rows[:, 1:].flatten(), np.resize(tokens, 10_000)[1 : 1 + rows[:, 1:].size])
    else:
        documents = {(256, *b"the cat sat.\n"), (256, *b"a dog ran to the cat.\n")}
        assert (rows[:, 0] == 256).all()
        for row in rows:
            begins = [*np.flatnonzero(row == 256), len(row)]
            pieces = [tuple(row[a:b].tolist()) for a, b in zip(begins, begins[1:], strict=False)]
            assert all(any(d[: len(piece)] == piece for d in documents) for piece in pieces)


def test_best_fit_windows_need_the_tokenizer(make_config) -> None:
    with pytest.raises(ValueError, match="need the tokenizer"):
        make_config(windows="best-fit", tokenizer=None, sample_tokens=0)


def test_under_document_mask_the_loss_is_that_of_each_document_alone(tmp_path, make_config) -> None:
    config = make_config(windows="stream", document_mask=True, sample_tokens=0)
    without_dropout = dataclasses.replace(config.model, attn_pdrop=0.0, residual_pdrop=0.0)
    config = dataclasses.replace(config, model=without_dropout)
    trainer = _Trainer(
        config, RunDirectory.create_or_resume(tmp_path / "run", config, kind="training"), SingleProcess()
    )
    inputs, targets = trainer._next_batch()
    losses = []
    for row, wanted in zip(inputs, targets, strict=True):
        begins = sorted({0, *(row == 256).nonzero().flatten().tolist(), len(row)})
        for first, end in zip(begins, begins[1:], strict=False):
            logits = trainer.model(row[None, first:end]).double()
            losses += (-torch.log_softmax(logits, -1)[0, torch.arange(end - first), wanted[first:end]]).tolist()
    assert len(losses) == inputs.numel() and (inputs[:, 1:] == 256).any()
    assert abs(trainer.loss(inputs, targets).cross_entropy.item() - np.mean(losses)) < 1e-5
    with pytest.raises(ValueError, match="set chunked_loss=0"):
        TrainingLoss(trainer.model, end_of_text=256, chunk_tokens=8)


# The comparison of objectives

TINY = TrainingOptions(
    d_model=16, num_layers=1, num_heads=2, context_length=12, batch_size=3, num_steps=5, max_learning_rate=5e-3,
    warmup_steps=1, num_valid_rows=8, checkpoint_every=2, seed=0, device="cpu",
)  # fmt: skip
CORPUS = CorpusOptions(num_train_stories=12, num_valid_stories=4, vocab_size=280, seed=0)


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stories")
    write_corpus(folder, CORPUS)
    return folder


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.name)
def test_an_objective_resumed_after_every_step_equals_the_undisturbed_run(stories, tmp_path, objective) -> None:
    shutil.copytree(stories, tmp_path / "whole")
    whole = ObjectiveRun(tmp_path / "whole", objective, TINY)
    while whole.step < TINY.num_steps:
        whole.update()
    shutil.copytree(stories, tmp_path / "broken")
    for step in range(1, TINY.num_steps + 1):  # a fresh run for every single step
        broken = ObjectiveRun(tmp_path / "broken", objective, TINY)
        assert broken.step == step - 1
        broken.update()
        broken.save()
    assert broken.log == whole.log and broken.curve == whole.curve
    assert broken.measure(8) == whole.measure(8)
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(weight, broken.module.state_dict()[name]), name


def test_all_objectives_read_the_same_rows(stories) -> None:
    rows = {}
    for objective in OBJECTIVES:
        read = rows.setdefault(objective.name, [])

        def loss(module, batch, generator, o=objective, read=read):
            read.append(batch.clone())
            return o.loss(module, batch, generator)

        spy = dataclasses.replace(objective, loss=loss)
        run = ObjectiveRun(stories, spy, TINY)
        run.update()
        run.update()
    tokens = np.fromfile(stories / "corpus" / "train.bin", dtype="<u2").astype(np.int64)
    expected = np.stack([tokens[k * 12 : k * 12 + 13] for k in range(6)])
    for name, batches in rows.items():
        assert np.array_equal(torch.cat(batches).numpy(), expected), name


def test_bits_per_byte_are_nats_over_the_bytes_of_the_scored_tokens(stories) -> None:
    run = ObjectiveRun(stories, OBJECTIVES[0], TINY)
    record = run.measure(8)
    from cs336_basics.tokenization import Tokenizer

    tokenizer = Tokenizer.load(stories / "corpus" / "tokenizer")
    tokens = np.fromfile(stories / "corpus" / "valid.bin", dtype="<u2").astype(np.int64)[: 8 * 12 + 1]
    text = tokenizer.decode([t for t in tokens[1:].tolist() if t != tokenizer.special_id("<|endoftext|>")])
    inputs, targets = (torch.from_numpy(tokens[i : i + 96]).view(8, 12) for i in (0, 1))
    nats = torch.nn.functional.cross_entropy(
        run.module(inputs).flatten(0, 1), targets.flatten(), reduction="sum"
    ).item()
    assert record["bits_per_byte"] == pytest.approx(nats / np.log(2) / len(text.encode()), rel=1e-5)


def test_the_comparison_writes_a_report_and_is_not_done_twice(tmp_path, capsys) -> None:
    config = ComparisonConfig(CORPUS, TINY)
    verdict = run_comparison(config, tmp_path / "out")
    rates = {name: row["bits_per_byte"] for name, row in verdict["objectives"].items()}
    assert rates.pop("masked_lm") is None and all(rate > verdict["floor_bits_per_byte"] for rate in rates.values())
    markdown = (tmp_path / "out" / "report.md").read_text()
    assert "| masked LM | not defined | not defined |" in markdown and "at most" in markdown
    assert (tmp_path / "out" / "report.html").exists()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/results.json")}
    capsys.readouterr()
    assert run_comparison(config, tmp_path / "out") == verdict
    assert capsys.readouterr().err.count("already done") == 7
    assert times == {p: p.stat().st_mtime_ns for p in times}


def test_a_lost_result_is_made_again_alike(tmp_path) -> None:
    config = ComparisonConfig(CORPUS, TINY)
    first = run_comparison(config, tmp_path / "out")
    (tmp_path / "out" / "prefix_lm" / "results.json").unlink()
    again = run_comparison(config, tmp_path / "out")
    for name, row in first["objectives"].items():
        assert row | {"seconds": 0} == again["objectives"][name] | {"seconds": 0}

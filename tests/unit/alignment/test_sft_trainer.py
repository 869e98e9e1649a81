"""Supervised fine-tuning: the loss by hand, invariance to microbatches, packing, order of data, resume."""

from __future__ import annotations

import copy

import pytest
import torch

from cs336_alignment.sft import SftConfig, SftTrainer, encode_pairs, epoch_rows, pack_rows
from cs336_alignment.task import Example
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_alignment.training_run import run_training
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model

PAIRS = LastDigit().examples("sft", 0)


def trainer_of(config: SftConfig, pairs=PAIRS) -> SftTrainer:
    return SftTrainer(tiny_model(dtype=torch.float64), CharTokenizer(), pairs, config)


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_loss_is_the_mean_over_response_tokens(mask_prompt):
    """Every token of every pair of the batch, one forward pass per pair; the end of text is learnt too."""
    trainer = trainer_of(SftConfig(batch_size=7, mask_prompt=mask_prompt))
    losses = []
    for index in epoch_rows(len(PAIRS), 7, 0, 0):
        pair = PAIRS[index]
        prompt = trainer.text.encode(pair.prompt)
        ids = [*prompt, *trainer.text.encode(pair.response), 0]
        scores = torch.log_softmax(trainer.model(torch.tensor([ids[:-1]]))[0], dim=-1)
        first = len(prompt) - 1 if mask_prompt else 0
        losses += [-scores[t, ids[t + 1]].item() for t in range(first, len(ids) - 1)]
    record = trainer.step()
    assert record["response_tokens"] == len(losses)
    assert record["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_microbatches_do_not_change_the_update():
    """Responses of unequal length, and a last microbatch that is smaller."""
    pairs = [Example("1+", "", "2" * (1 + i % 5)) for i in range(10)]
    weights = []
    for accumulation in (1, 3, 10):
        trainer = trainer_of(SftConfig(batch_size=10, gradient_accumulation=accumulation), pairs)
        trainer.step()
        weights.append(trainer.model.state_dict())
    for other in weights[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, weights[0][name], atol=1e-6, rtol=1e-5, msg=name)


def test_packed_rows_are_the_stream():
    rows = [([1, 2], [3, 0]), ([4], [5, 6, 7, 0]), ([8], [9, 0])]
    stream = [1, 2, 3, 0, 4, 5, 6, 7, 0, 8, 9, 0]
    for length in (1, 3, 4, 11):
        pieces = pack_rows(rows, length)
        assert len(pieces) == (len(stream) - 1) // length
        for k, (first, labels) in enumerate(pieces):
            assert [*first, *labels] == stream[k * length : (k + 1) * length + 1]
    with pytest.raises(ValueError, match="too few for one piece of 12"):
        pack_rows(rows, 12)


def test_packed_training_learns():
    trainer = trainer_of(SftConfig(num_steps=30, batch_size=8, packed=12))
    losses = [trainer.step()["loss"] for _ in range(30)]
    assert losses[-1] < losses[0] - 0.5


def test_every_epoch_visits_every_pair():
    seen = [row for step in range(6) for row in epoch_rows(9, 6, step, 4)]
    for epoch in range(4):
        assert sorted(seen[epoch * 9 : (epoch + 1) * 9]) == list(range(9))
    assert seen[:9] != seen[9:18]


def test_prompt_is_not_learnt_when_masked():
    """A pair whose response is the same for all: the gradient of unused prompt labels is exactly zero."""
    trainer = trainer_of(SftConfig(batch_size=4))
    rows = [trainer.rows[i] for i in range(4)]
    trainer._backward(rows)
    seen = {token for _, response in rows for token in response}
    grad = trainer.model.lm_head.weight.grad
    masked = copy.deepcopy(grad)
    trainer.model.zero_grad()
    whole = SftTrainer(trainer.model, CharTokenizer(), PAIRS, SftConfig(batch_size=4, mask_prompt=False))
    whole._backward([whole.rows[i] for i in range(4)])
    assert seen and not torch.allclose(masked, trainer.model.lm_head.weight.grad)


def test_resume(tmp_path):
    config = SftConfig(num_steps=6, batch_size=5, checkpoint_every=2)
    whole = trainer_of(config)
    run_training(whole, tmp_path / "whole", kind="sft", config=config, progress=False)
    cut = trainer_of(config)
    step, calls = cut.step, []

    def interrupted():
        calls.append(0)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step()

    cut.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run_training(cut, tmp_path / "cut", kind="sft", config=config, progress=False)
    again = trainer_of(config)
    run_training(again, tmp_path / "cut", kind="sft", config=config, tokenizer=None, progress=False)
    for (name, p), q in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q), name


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "nothing to imitate"),
        ([Example("1", "1")], "pair 0 has no response"),
        ([Example("1", "1", "2"), Example("1" * 40, "1", "2")], "pair 1 has 42 tokens and the model sees 32"),
    ],
)
def test_bad_pairs(pairs, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(SftConfig(), pairs)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_steps": 0}, "num_steps"), ({"batch_size": 2, "gradient_accumulation": 3}, "at least as many rows"),
     ({"packed": 0}, "packed")],
)  # fmt: skip
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SftConfig(**settings)


def test_encode_pairs_counts_the_prompt_as_response_without_mask():
    text = TextTokenizer(CharTokenizer())
    assert encode_pairs([Example("1+", "", "2")], text, context_length=None) == [([2, 11], [3, 0])]
    assert encode_pairs([Example("1+", "", "2")], text, context_length=None, mask_prompt=False) == [([], [2, 11, 3, 0])]

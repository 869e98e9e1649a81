"""The full step's harness: it passes right entries, catches wrong ones, and counts the board's work."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import cross_entropy
from cs336_systems.leaderboard_step import (
    ENTRIES,
    FULL_SHAPE,
    TOY_SHAPE,
    ChunkedLossEntry,
    PlainEntry,
    check_entry,
    refuse_if_too_large,
    time_entry,
)


class TorchEntry(PlainEntry):
    """torch's own AdamW and loss."""

    def __init__(self, model, learning_rate):
        super().__init__(model, learning_rate)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)

    def loss(self, ids):
        return torch.nn.functional.cross_entropy(self.model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


class Forgetful(PlainEntry):
    """Its optimizer starts afresh at each step."""

    def step(self, ids):
        self.optimizer.state.clear()
        return super().step(ids)


class Accumulating(PlainEntry):
    """Never clears gradients."""

    def step(self, ids):
        loss = cross_entropy(self.model(ids[:, :-1]), ids[:, 1:])
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Sleeping(PlainEntry):
    """Makes no update where the shape is not the toy's."""

    def step(self, ids):
        if ids.shape[1] == TOY_SHAPE.model.context_length + 1:
            return super().step(ids)
        with torch.no_grad():
            return self.loss(ids)


def test_the_boards_shape():
    model = TransformerLM(FULL_SHAPE.model, device="meta")
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.13e9, rel=1e-3)
    assert FULL_SHAPE.tokens == 2 * 32_768
    assert FULL_SHAPE.flops == pytest.approx(2.95e15 + 2.09e15, rel=2e-3)


@pytest.mark.parametrize("make", [*ENTRIES.values(), TorchEntry, functools.partial(ChunkedLossEntry, chunk_tokens=7)])
def test_right_entries_pass(make):
    assert check_entry(make).passed


@pytest.mark.parametrize("make", [Forgetful, Accumulating])
def test_wrong_entries_fail(make):
    check = check_entry(make)
    assert not check.passed and check.update_error > 0.05
    with pytest.raises(ValueError, match="does not make the reference's step"):
        time_entry(make, TOY_SHAPE, device="cpu", warmups=0, repeats=1)


def test_bfloat16_needs_its_own_tolerance():
    make = functools.partial(PlainEntry, precision="bfloat16")
    assert check_entry(make, tolerance=0.15).passed and not check_entry(make).passed


def test_each_timed_step_sees_fresh_ids_and_losses_are_those_of_a_new_model():
    seen = []

    class Watching(PlainEntry):
        def step(self, ids):
            seen.append(ids.clone())
            return super().step(ids)

    result = time_entry(Watching, TOY_SHAPE, device="cpu", warmups=1, repeats=3)
    timed = seen[-4:]
    assert all(not torch.equal(a, b) for i, a in enumerate(timed) for b in timed[:i])
    assert result.timing.count == 3 and len(result.losses) == 4
    assert all(loss == pytest.approx(math.log(211), rel=0.2) for loss in result.losses)
    assert result.to_dict()["tflops"] == pytest.approx(TOY_SHAPE.flops / result.timing.mean_ms / 1e9)


def test_an_entry_that_only_works_where_it_is_checked_is_caught():
    import dataclasses

    shape = dataclasses.replace(TOY_SHAPE, model=dataclasses.replace(TOY_SHAPE.model, context_length=40))
    with pytest.raises(ValueError, match="the entry made no update"):
        time_entry(Sleeping, shape, device="cpu", warmups=0, repeats=2)


def test_impossible_losses_and_foreign_weights_are_refused():
    class Lucky(PlainEntry):
        checked = 0

        def step(self, ids):
            loss = super().step(ids)
            Lucky.checked += 1
            return loss if Lucky.checked <= 3 else loss * 0.1

    with pytest.raises(ValueError, match="on fresh random ids is not possible"):
        time_entry(Lucky, TOY_SHAPE, device="cpu", warmups=0, repeats=1)

    class Renamed(PlainEntry):
        def state_dict(self):
            return {f"module.{name}": weight for name, weight in super().state_dict().items()}

    with pytest.raises(ValueError, match="names and shapes of the model's"):
        check_entry(Renamed)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        check_entry(PlainEntry, steps=0)


def test_a_shape_that_does_not_fit_is_refused_with_numbers():
    with pytest.raises(ValueError, match=r"needs 11,110 GB and cpu has .* GB free"):
        refuse_if_too_large(FULL_SHAPE, torch.device("cpu"))
    refuse_if_too_large(TOY_SHAPE, torch.device("cpu"))

"""The bank against the hidden suite: every mutant loses its problem, nearly all are named, the right answer never is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cs336_course.grading.judge import judgement
from cs336_course.grading.suite import available, generator, load_suite
from cs336_course.misconceptions.attention import Knobs, attend, model, turn
from cs336_course.misconceptions.bank import READ, misconceptions
from cs336_course.misconceptions.diagnosis import answer_of, name, same
from cs336_course.misconceptions.selftest import run_selftest

from ..fixtures.bpe_cases import CASES, expected_merges
from ..fixtures.model_files import load

BANKS, SAMPLE = available(), 3
FAST = ["rmsnorm", "softmax", "cross_entropy", "scaled_dot_product_attention", "rope", "gradient_clipping"]


@pytest.mark.parametrize("assignment", BANKS)
def test_at_least_six_for_each_problem(assignment):
    bank = misconceptions(assignment)
    counts = Counter(entry.slug for entry in bank)
    slugs = {problem.slug for problem in load_suite(assignment, secret=b"x").problems}
    assert set(counts) == slugs <= set(READ) and min(counts.values()) >= 6
    assert len({(entry.slug, entry.name) for entry in bank}) == len(bank)


@pytest.mark.parametrize("slug", FAST)
def test_mutants_lose_their_problem_and_are_named(slug):
    result = run_selftest("basics", secret=b"another secret", only=[slug])
    assert result.survived == [] and len(result.named) >= 0.9 * len(result.caught) > 0, result.misnamed


@pytest.mark.parametrize("assignment", BANKS)
def test_a_sample_of_each_bank(assignment):
    """All of it: `cs336 grade selftest ASSIGNMENT`. The reference gets full marks on the way, empty adapters none."""
    result = run_selftest(assignment, sample=SAMPLE)
    assert result.passed, result.summary()


def test_right_answers_pass_and_are_not_diagnosed():
    """torch's own functions as the submission, on inputs of three secrets."""
    right = SimpleNamespace(run_softmax=lambda in_features, dim: torch.softmax(in_features, dim))
    for secret in (b"1", b"2", b"3"):
        (problem,) = load_suite("basics", secret=secret, only=["softmax"]).problems
        answers = {case.id: answer_of(SimpleNamespace(adapters=right), case) for case in problem.cases}
        assert [judgement(case, answers[case.id]) for case in problem.cases] == [None] * len(problem.cases)
        assert name(problem, answers, set()) is None


def test_stored_public_answers_earn_nothing():
    """A submission that knows the merges of all public corpora by heart, and RoPE's public output."""

    def run_train_bpe(input_path, vocab_size, special_tokens):
        text = Path(input_path).read_text()
        name = next((name for name, case in CASES.items() if case.text == text), "english")
        merges = expected_merges(name)[: vocab_size - 256 - len(special_tokens)]
        tokens = [bytes([b]) for b in range(256)] + [a + b for a, b in merges] + [s.encode() for s in special_tokens]
        return dict(enumerate(tokens)), merges

    stored = load("model_rope")["outputs"]["rope"]
    memory = SimpleNamespace(run_train_bpe=run_train_bpe, run_rope=lambda **_: stored)
    for problem in load_suite("basics", secret=b"5", only=["train_bpe", "rope"]).problems:
        for case in problem.cases:
            assert judgement(case, answer_of(SimpleNamespace(adapters=memory), case)) is not None, case.id


def test_a_mistake_outside_the_bank_has_no_name():
    odd = SimpleNamespace(run_softmax=lambda in_features, dim: torch.softmax(3 * in_features, dim))
    (problem,) = load_suite("basics", secret=b"1", only=["softmax"]).problems
    answers = {case.id: answer_of(SimpleNamespace(adapters=odd), case) for case in problem.cases}
    failed = {case.id for case in problem.cases if judgement(case, answers[case.id])}
    assert failed and name(problem, answers, failed) is None


def test_without_deviation_the_small_models_are_right():
    """The knobs' defaults pass the suite: each misconception differs from the right answer by its deviation alone."""
    right = SimpleNamespace(
        run_rope=lambda d_k, theta, max_seq_len, in_query_or_key, token_positions: turn(in_query_or_key, token_positions, theta, Knobs()),
        run_scaled_dot_product_attention=lambda Q, K, V, mask=None: attend(Q, K, V, mask, Knobs()),
        run_transformer_lm=lambda weights, in_indices, num_layers, num_heads, rope_theta, **_: model(in_indices, weights, num_layers, num_heads, rope_theta, Knobs()),
    )  # fmt: skip
    for problem in load_suite(
        "basics", secret=b"4", only=["rope", "scaled_dot_product_attention", "transformer_lm"]
    ).problems:
        for case in problem.cases:
            assert judgement(case, answer_of(SimpleNamespace(adapters=right), case)) is None, (problem.slug, case.id)


def test_inputs_depend_on_secret_and_slug_only():
    draws = [
        generator(*arguments).random(3).tolist() for arguments in ((b"a", "x"), (b"a", "x"), (b"b", "x"), (b"a", "y"))
    ]
    assert draws[0] == draws[1] and len({tuple(draw) for draw in draws}) == 3
    with pytest.raises(ValueError, match="no problem 'rop'"):
        load_suite("basics", secret=b"x", only=["rop"])


def test_same_treats_nan_as_equal_and_types_as_different():
    assert same({"a": np.array([np.nan, 1.0])}, {"a": np.array([np.nan, 1.0])})
    assert not same(np.array([1.0]), np.array([1])) and not same([1], [1, 2]) and not same("1", 1)

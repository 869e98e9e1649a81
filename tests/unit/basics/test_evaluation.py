"""Losses, bytes and cloze answers against loops that predict one token at a time in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from cs336_basics.evaluation import Evaluation, cloze_accuracy, document_rows, evaluate_documents, evaluate_windows
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig

VOCAB, CONTEXT, END = 23, 8, 22


@pytest.fixture(scope="module")
def model() -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(ModelConfig(VOCAB, CONTEXT, 16, 2, 2, 24, attn_pdrop=0.3, residual_pdrop=0.3)).double()


def log_probability(model: TransformerLM, context: list[int], target: int) -> float:
    """Of one token after its context, by softmax in Python floats."""
    training = model.training
    with torch.no_grad():
        row = model.eval()(torch.tensor([context]))[0, -1].tolist()
    model.train(training)
    top = max(row)
    return row[target] - top - math.log(math.fsum(math.exp(value - top) for value in row))


def windows_by_hand(model: TransformerLM, tokens: list[int], context: int) -> dict[int, float]:
    """Loss of the token at each place; token 1 + w T + i sees the i + 1 tokens before it in its window."""
    losses = {}
    for place in range(1, len(tokens)):
        start = (place - 1) // context * context
        losses[place] = -log_probability(model, tokens[start:place], tokens[place])
    return losses


def tokens_with_documents(lengths: list[int], tail: int = 0) -> np.ndarray:
    generator = np.random.default_rng(1)
    parts = [[*generator.integers(0, END, n).tolist(), END] for n in lengths]
    return np.array([*sum(parts, []), *generator.integers(0, END, tail).tolist()], dtype=np.uint16)


@pytest.mark.parametrize("count", [2, 3, CONTEXT, CONTEXT + 1, CONTEXT + 2, 3 * CONTEXT + 1, 61])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_windows(model, count, batch_size) -> None:
    tokens = np.random.default_rng(count).integers(0, VOCAB, count).astype(np.uint16)
    result = evaluate_windows(model, tokens, CONTEXT, batch_size=batch_size)
    expected = windows_by_hand(model, tokens.tolist(), CONTEXT)
    assert result.tokens == len(expected) == count - 1
    assert result.nats == pytest.approx(math.fsum(expected.values()), rel=1e-9)
    assert (result.bytes, result.text_nats) == (0, 0.0)


def documents_by_hand(model: TransformerLM, tokens: list[int]) -> dict[int, float]:
    """Each document after an end token; targets past the first window see at least half a context."""
    losses, start = {}, 0
    for end in [i for i, token in enumerate(tokens) if token == END]:
        document = [END, *tokens[start : end + 1]]
        for place in range(1, len(document)):
            if place <= CONTEXT:
                first = 0
            else:
                half = CONTEXT // 2
                stop = min(CONTEXT + 1 + ((place - CONTEXT - 1) // half + 1) * half, len(document))
                first = stop - CONTEXT - 1
            losses[start + place - 1] = -log_probability(model, document[first:place], document[place])
        start = end + 1
    return losses


@pytest.mark.parametrize(
    "lengths",
    [[0], [3], [0, 0, 4], [CONTEXT - 2, CONTEXT - 1, CONTEXT, CONTEXT + 1, CONTEXT + 2], [40, 1, 29], [12, 16, 17]],
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_documents(model, lengths, batch_size) -> None:
    tokens = tokens_with_documents(lengths, tail=5)
    result = evaluate_documents(model, tokens, CONTEXT, END, batch_size=batch_size)
    expected = documents_by_hand(model, tokens.tolist())
    assert result.tokens == len(expected) == sum(lengths) + len(lengths), "each token of a document once, no tail"
    assert result.nats == pytest.approx(math.fsum(expected.values()), rel=1e-9)


@pytest.mark.parametrize("context", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("length", [0, 1, 5, 8, 9, 30])
def test_every_target_is_counted_once_and_sees_its_own_past(context, length) -> None:
    """Ids are their own places, so the rows tell what they hold."""
    tokens, end = np.array([*range(length), 999, *range(100, 103), 999]), 999
    targets: list[int] = []
    for row, first in document_rows(tokens, context, end):
        assert len(row) <= context + 1 and 1 <= first < len(row)
        assert all(b == a + 1 for a, b in zip(row, row[1:], strict=False) if 999 not in (a, b))
        targets += row[first:].tolist()
    assert sorted(targets) == sorted(tokens.tolist())


def test_documents_are_independent_of_their_neighbours(model) -> None:
    both = tokens_with_documents([6, 20])
    first, second = both[:7], both[7:]
    alone = [evaluate_documents(model, part, CONTEXT, END) for part in (first, second)]
    together = evaluate_documents(model, both, CONTEXT, END)
    assert together.nats == pytest.approx(sum(e.nats for e in alone), rel=1e-12)
    assert together.tokens == sum(e.tokens for e in alone)


@pytest.mark.parametrize("by", ["windows", "documents"])
def test_bytes_leave_special_tokens_out(model, by) -> None:
    tokens = tokens_with_documents([5, 19, 0, 8])
    sizes = np.array([*(1 + i % 4 for i in range(END)), 0])
    if by == "windows":
        result = evaluate_windows(model, tokens, CONTEXT, token_bytes=sizes, batch_size=3)
        losses = windows_by_hand(model, tokens.tolist(), CONTEXT)
    else:
        result = evaluate_documents(model, tokens, CONTEXT, END, token_bytes=sizes, batch_size=3)
        losses = documents_by_hand(model, tokens.tolist())
    text = [place for place in losses if tokens[place] != END]
    nats, count = math.fsum(losses[place] for place in text), sum(int(sizes[tokens[place]]) for place in text)
    assert result.bytes == count
    assert result.text_nats == pytest.approx(nats, rel=1e-9)
    assert result.bits_per_byte == pytest.approx(nats / math.log(2) / count, rel=1e-9)
    assert result.nats == pytest.approx(math.fsum(losses.values()), rel=1e-9)
    assert result.perplexity == pytest.approx(math.exp(result.nats / result.tokens), rel=1e-12)


def test_evaluation_changes_neither_mode_nor_random_state(model) -> None:
    model.train()
    state = torch.get_rng_state()
    first = evaluate_windows(model, tokens_with_documents([30]), CONTEXT)
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert evaluate_windows(model.eval(), tokens_with_documents([30]), CONTEXT) == first and not model.training


def test_uniform_models_have_the_perplexity_of_their_vocabulary() -> None:
    class Uniform(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*ids.shape, VOCAB)

    result = evaluate_windows(Uniform(), tokens_with_documents([50]), CONTEXT, token_bytes=np.full(VOCAB, 3))
    assert result.perplexity == pytest.approx(VOCAB, rel=1e-6)
    assert result.bits_per_byte == pytest.approx(math.log2(VOCAB) / 3, rel=1e-6)


def test_errors() -> None:
    with pytest.raises(ValueError, match="at least two tokens; got 1"):
        evaluate_windows(torch.nn.Identity(), np.array([1]), 4)
    with pytest.raises(ValueError, match="id 22 does not occur; use evaluate_windows"):
        evaluate_documents(torch.nn.Identity(), np.array([1, 2]), 4, END)
    assert Evaluation(1.0, 1, 0.0, 0).bits_per_byte == math.inf


def test_perplexity_of_a_terrible_model_is_infinite() -> None:
    assert Evaluation(800.0, 1, 0.0, 0).perplexity == math.inf


# Cloze questions


@dataclass(frozen=True)
class Question:
    prompt: str
    answer: str
    candidates: tuple[str, ...]


def encode(text: str) -> list[int]:
    return [ord(letter) - 97 for letter in text]


def test_cloze_accuracy(model) -> None:
    """Candidates of unequal lengths, prompts shorter and longer than the context."""
    generator = np.random.default_rng(4)

    def word(length: int) -> str:
        return "".join(chr(97 + i) for i in generator.integers(0, 20, length))

    questions = []
    for number in range(30):
        candidates = tuple(word(1 + (number + i) % 3) for i in range(4))
        questions.append(Question(word(1 + number % 14), candidates[number % 4], candidates))
    expected = []
    for question in questions:
        scores = []
        for candidate in question.candidates:
            ids, total = [END, *encode(question.prompt)], 0.0
            first = max(0, len(ids) + len(candidate) - CONTEXT - 1)  # one window for the whole candidate
            for target in encode(candidate):
                total += log_probability(model, ids[first:], target)
                ids.append(target)
            scores.append(total)
        expected.append(question.candidates[scores.index(max(scores))] == question.answer)
    assert 2 < sum(expected) < 28
    for batch_size in (1, 7, 200):
        actual = cloze_accuracy(
            model, encode, questions, end_of_text=END, context_length=CONTEXT, batch_size=batch_size
        )
        assert actual == expected

"""Objectives against loops over positions, enumeration of every mask, and separate forward passes."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from cs336_basics.masked_forward import masked_logits
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.objectives import catalogue
from cs336_basics.objectives.masked_diffusion import (
    diffusion_bound,
    diffusion_loss,
    draw_times,
    generate_by_unmasking,
    hidden_nats,
    mask_by_count,
    mask_by_time,
)
from cs336_basics.objectives.masked_lm import choose_places, corrupt, masked_lm_loss
from cs336_basics.objectives.multi_token_prediction import MultiTokenPredictor, multi_token_loss
from cs336_basics.objectives.next_token import next_token_losses
from cs336_basics.objectives.prefix_lm import draw_prefixes, prefix_lm_loss, prefix_losses, prefix_mask
from cs336_basics.packing import document_ids, document_mask, document_positions

VOCAB, SEQ = 11, 9


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_model(seed: int = 0, **changes) -> TransformerLM:
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCAB, "context_length": SEQ, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 24}
    return TransformerLM(ModelConfig(**(shape | changes)), dtype=torch.float64)


def some_rows(batch: int = 3, length: int = SEQ + 1, vocab: int = VOCAB) -> torch.Tensor:
    return torch.randint(vocab, (batch, length), generator=generator(5))


# Masks of one's own


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "none"])
@pytest.mark.parametrize("tie", [False, True])
def test_a_causal_mask_gives_the_models_own_logits(positions, tie) -> None:
    model = tiny_model(positions=positions, tie_embeddings=tie)
    ids = some_rows()[:, :-1]
    causal = torch.ones(SEQ, SEQ, dtype=torch.bool).tril()
    torch.testing.assert_close(masked_logits(model, ids, causal), model(ids), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "none"])
def test_packed_documents_get_the_logits_they_get_alone(positions) -> None:
    model, end = tiny_model(positions=positions), 0
    ids = torch.tensor([[0, 4, 5, 0, 7, 0, 8, 9, 3], [6, 2, 0, 0, 1, 2, 3, 4, 5]])
    documents = document_ids(ids, end)
    packed = masked_logits(model, ids, document_mask(documents), document_positions(documents))
    for row in range(len(ids)):
        for document in documents[row].unique():
            inside = documents[row] == document
            alone = model(ids[row][inside][None])[0]
            torch.testing.assert_close(packed[row][inside], alone, rtol=1e-12, atol=1e-12)
    plain = model(ids)
    assert not torch.allclose(plain[:, -1], packed[:, -1])  # without the mask the neighbours are read


def test_masks_of_ones_own_refuse_what_they_cannot_do() -> None:
    ids, causal = some_rows()[:, :-1], torch.ones(SEQ, SEQ, dtype=torch.bool).tril()
    for changes, message in (({"norm": "post"}, "norm='pre'"), ({"residual_pdrop": 0.1}, "without dropout")):
        with pytest.raises(ValueError, match=message):
            masked_logits(tiny_model(**changes), ids, causal)
    with pytest.raises(ValueError, match="below context_length=9; got 9"):
        masked_logits(tiny_model(), ids, causal, torch.arange(1, SEQ + 1))


def test_a_bidirectional_model_sees_both_sides() -> None:
    model = tiny_model(attention="bidirectional")
    ids = some_rows()[:, :-1]
    everything = torch.ones(SEQ, SEQ, dtype=torch.bool)
    torch.testing.assert_close(model(ids), masked_logits(tiny_model(), ids, everything), rtol=1e-12, atol=1e-12)


# Next token and several tokens ahead


def test_next_token_losses_are_the_chain_rule() -> None:
    model, rows = tiny_model(), some_rows()
    losses = next_token_losses(model, rows)
    for b, t in itertools.product(range(3), range(SEQ)):
        logits = model(rows[b : b + 1, : t + 1])[0, -1].tolist()
        expected = math.log(sum(math.exp(x) for x in logits)) - logits[rows[b, t + 1]]
        assert losses[b, t].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_multi_token_loss_equals_a_loop(num_heads) -> None:
    predictor, rows = MultiTokenPredictor(tiny_model(), num_heads), some_rows()
    logits = predictor(rows[:, :-1])
    per_head = []
    for ahead, head in enumerate(logits, start=1):
        weights = np.exp(head.detach().numpy())
        shares = weights / weights.sum(axis=-1, keepdims=True)
        terms = [-math.log(shares[b, t, rows[b, t + ahead]]) for b in range(3) for t in range(SEQ) if t + ahead <= SEQ]
        assert len(terms) == 3 * (SEQ + 1 - ahead)
        per_head.append(sum(terms) / len(terms))
    assert multi_token_loss(logits, rows).item() == pytest.approx(sum(per_head) / num_heads, rel=1e-10)


def test_heads_share_trunk_norm_and_output_and_the_first_is_the_model() -> None:
    model = tiny_model()
    predictor, ids = MultiTokenPredictor(model, 3), some_rows()[:, :-1]
    logits = predictor(ids)
    assert torch.equal(logits[0], model(ids))
    trunk = model.layers[0](model.token_embeddings(ids), torch.arange(SEQ))  # all layers but the last
    for block, head in zip(predictor.blocks, logits[1:], strict=True):
        expected = model.lm_head(model.ln_final(block(trunk, torch.arange(SEQ))))
        torch.testing.assert_close(head, expected, rtol=1e-12, atol=1e-12)
    assert len(model.layers[-1]._forward_pre_hooks) == 0
    multi_token_loss(logits, some_rows()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in predictor.parameters())


def test_too_many_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 head"):
        MultiTokenPredictor(tiny_model(), 0)
    rows = some_rows(length=4)
    with pytest.raises(ValueError, match="4 heads need rows of at least 5"):
        multi_token_loss(MultiTokenPredictor(tiny_model(), 4)(rows[:, :-1]), rows)


# Prefix LM


def test_prefix_mask_equals_a_double_loop() -> None:
    prefixes = torch.tensor([1, 4, 9])
    mask = prefix_mask(prefixes, SEQ)
    for b, q, k in itertools.product(range(3), range(SEQ), range(SEQ)):
        assert mask[b, q, k] == (k <= q or k < prefixes[b])


def test_prefix_tokens_are_never_scored_and_the_rest_is_predicted_from_what_came_before() -> None:
    model, rows, prefixes = tiny_model(), some_rows(), torch.tensor([1, 4, 9])
    losses, scored = prefix_losses(model, rows, prefixes)
    assert scored.sum(dim=1).tolist() == [SEQ + 1 - p for p in prefixes.tolist()]
    for b, prefix in enumerate(prefixes.tolist()):
        assert not scored[b, : prefix - 1].any() and not losses[b, : prefix - 1].any()
        for token in range(1, SEQ + 1):
            other = rows.clone()
            other[b, token] = (other[b, token] + 1) % VOCAB
            changed, _ = prefix_losses(model, other, prefixes)
            before = slice(0, token - 1)  # predictions of tokens 1 .. token - 1
            if token >= prefix:  # a target: no earlier prediction may see it
                torch.testing.assert_close(changed[b, before], losses[b, before], rtol=1e-12, atol=1e-12)
    mean = losses.sum() / scored.sum()
    assert prefix_lm_loss(model, rows, prefixes).item() == pytest.approx(mean.item())


def test_a_prefix_of_one_token_is_a_causal_model() -> None:
    model, rows = tiny_model(), some_rows()
    losses, scored = prefix_losses(model, rows, torch.ones(3, dtype=torch.int64))
    assert scored.all()
    torch.testing.assert_close(losses, next_token_losses(model, rows), rtol=1e-12, atol=1e-12)


def test_prefixes_are_uniform_and_checked() -> None:
    counts = Counter(draw_prefixes(9000, 9, generator=generator()).tolist())
    assert sorted(counts) == list(range(1, 10)) and all(900 < n < 1100 for n in counts.values())
    for bad in (0, SEQ + 1):
        with pytest.raises(ValueError, match="prefixes must lie in 1 .. 9"):
            prefix_losses(tiny_model(), some_rows(), torch.tensor([1, 2, bad]))


# Masked LM


def test_corruption_has_berts_shares() -> None:
    rows = some_rows(batch=400, length=101, vocab=500)
    chosen = choose_places(rows, rate=0.15, generator=generator())
    corrupted = corrupt(rows, chosen, mask_id=500, generator=generator(1))
    assert not chosen[:, 0].any() and chosen[:, 1:].float().mean().item() == pytest.approx(0.15, abs=0.006)
    assert torch.equal(corrupted[~chosen], rows[~chosen])
    before, after = rows[chosen], corrupted[chosen]
    shares = [(after == 500).float().mean(), (after == before).float().mean()]
    assert shares[0].item() == pytest.approx(0.8, abs=0.02) and shares[1].item() == pytest.approx(0.1, abs=0.02)
    strangers = after[(after != 500) & (after != before)]
    assert len(strangers.unique()) > 300 and strangers.max() < 500


def test_masked_lm_loss_equals_a_loop() -> None:
    model, rows = tiny_model(vocab_size=VOCAB + 1, context_length=SEQ + 1, attention="bidirectional"), some_rows()
    chosen = choose_places(rows, rate=0.4, generator=generator())
    corrupted = corrupt(rows, chosen, mask_id=VOCAB, generator=generator(1))
    logits = model(corrupted).detach().numpy()
    terms = []
    for b, i in itertools.product(range(3), range(SEQ + 1)):
        if chosen[b, i]:
            weights = np.exp(logits[b, i, :VOCAB])  # the mask is never predicted
            terms.append(-math.log(weights[rows[b, i]] / weights.sum()))
    assert masked_lm_loss(model, rows, corrupted, chosen).item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    nothing = torch.zeros_like(chosen)
    assert masked_lm_loss(model, rows, rows, nothing).item() == 0.0
    with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
        choose_places(rows, rate=0.0, generator=generator())


# Masked diffusion

TOY_VOCAB, TOY_LENGTH = 3, 3
TOY_JOINT = torch.rand(TOY_VOCAB**TOY_LENGTH, generator=generator(3), dtype=torch.float64).pow(3)
TOY_JOINT /= TOY_JOINT.sum()
TOY_ROWS = torch.tensor([[0, *x] for x in itertools.product(range(TOY_VOCAB), repeat=TOY_LENGTH)])


def true_conditionals(ids: torch.Tensor) -> torch.Tensor:
    """Log of p(x_i | visible) under TOY_JOINT, by summing over all rows that agree; the first token is given."""
    logits = torch.zeros(*ids.shape, TOY_VOCAB + 1, dtype=torch.float64)
    for b, row in enumerate(ids):
        agrees = ((row == TOY_VOCAB) | (row == TOY_ROWS)).all(dim=1)
        for i, token in itertools.product(range(1, TOY_LENGTH + 1), range(TOY_VOCAB)):
            logits[b, i, token] = (TOY_JOINT * agrees * (TOY_ROWS[:, i] == token)).sum().log()
    return logits


def enumerated_bound(denoise, row: torch.Tensor, mask_id: int) -> float:
    """Sum over all masks of P(mask) / t integrated over t: weight 1 / (k binomial(L, k)) for k masked places."""
    length, total = len(row) - 1, 0.0
    for k in range(1, length + 1):
        for places in itertools.combinations(range(1, length + 1), k):
            masked = torch.zeros(1, length + 1, dtype=torch.bool)
            masked[0, list(places)] = True
            logits = denoise(row[None].masked_fill(masked, mask_id))[0]
            for i in places:
                weights = logits[i, :mask_id].exp()
                total -= math.log(weights[row[i]] / weights.sum()) / (k * math.comb(length, k))
    return total


def test_with_true_conditionals_the_bound_is_the_likelihood() -> None:
    """Rows of any probability: the mean over orders of the chain rule is -log p itself."""
    for number in (0, 5, 13, 26):
        expected = -math.log(TOY_JOINT[number])
        assert enumerated_bound(true_conditionals, TOY_ROWS[number], TOY_VOCAB) == pytest.approx(expected, rel=1e-9)


def test_time_weighted_masks_integrate_to_the_enumerated_bound() -> None:
    """E over t of E over masks of hidden_nats / t, by Gauss-Legendre: exact for a polynomial of degree L - 1."""
    model = tiny_model(vocab_size=TOY_VOCAB + 1, context_length=TOY_LENGTH + 1, attention="bidirectional")
    nodes, weights = np.polynomial.legendre.leggauss(4)
    with torch.no_grad():
        for row in TOY_ROWS[::5]:
            total = 0.0
            for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
                for pattern in itertools.product([False, True], repeat=TOY_LENGTH):
                    masked = torch.tensor([[False, *pattern]])
                    chance = node ** sum(pattern) * (1 - node) ** (TOY_LENGTH - sum(pattern))
                    total += weight * chance * hidden_nats(model, row[None], masked, mask_id=TOY_VOCAB).item() / node
            assert total == pytest.approx(enumerated_bound(model, row, TOY_VOCAB), rel=1e-9)


def test_both_estimators_have_the_enumerated_bound_as_their_mean() -> None:
    model = tiny_model(vocab_size=TOY_VOCAB + 1, context_length=TOY_LENGTH + 1, attention="bidirectional")
    rows = TOY_ROWS[[1, 8, 20]]
    with torch.no_grad():
        expected = [enumerated_bound(model, row, TOY_VOCAB) for row in rows]
        samples = diffusion_bound(
            model, rows.repeat(400, 1), mask_id=TOY_VOCAB, samples=5, generator=generator(1)
        ).view(-1, 3)
        losses = [
            diffusion_loss(model, rows.repeat(40, 1), mask_id=TOY_VOCAB, generator=generator(s)).item() * TOY_LENGTH
            for s in range(40)
        ]
    error = samples.std(dim=0) / len(samples) ** 0.5
    for mean, value, sigma in zip(samples.mean(dim=0).tolist(), expected, error.tolist(), strict=True):
        assert abs(mean - value) < 4 * sigma and sigma < 0.05 * value
    assert np.mean(losses) == pytest.approx(np.mean(expected), abs=4 * np.std(losses) / len(losses) ** 0.5)


def test_the_bound_of_a_wrong_model_lies_above_the_entropy() -> None:
    uniform = lambda ids: torch.zeros(*ids.shape, TOY_VOCAB + 1, dtype=torch.float64)  # noqa: E731
    entropy = -(TOY_JOINT * TOY_JOINT.log()).sum().item()
    bounds = [enumerated_bound(uniform, row, TOY_VOCAB) for row in TOY_ROWS]
    bound = float(TOY_JOINT @ torch.tensor(bounds, dtype=torch.float64))
    assert bound == pytest.approx(TOY_LENGTH * math.log(TOY_VOCAB)) and bound > entropy


def test_masks_have_the_counts_and_rates_they_say() -> None:
    rows = torch.zeros(3000, 5, dtype=torch.int64)
    counts = torch.arange(3000) % 4 + 1
    masked = mask_by_count(rows, counts, generator=generator())
    assert torch.equal(masked.sum(dim=1), counts) and not masked[:, 0].any()
    patterns = Counter(tuple(m.tolist()) for m in masked[counts == 2])
    assert len(patterns) == 6 and all(80 < n < 175 for n in patterns.values())
    times = torch.tensor([0.25, 1.0]).repeat(1500)
    masked = mask_by_time(rows, times, generator=generator())
    assert masked[times == 1, 1:].all() and not masked[:, 0].any()
    assert masked[times == 0.25, 1:].float().mean().item() == pytest.approx(0.25, abs=0.025)
    for seed in range(50):
        drawn = draw_times(8, generator=generator(seed))
        assert torch.equal((drawn * 8).ceil().long(), torch.arange(1, 9))


def test_unmasking_one_by_one_draws_from_the_joint() -> None:
    """With many steps two tokens are hardly ever revealed at once, so true conditionals give the joint."""
    seen: dict[tuple[int, ...], torch.Tensor] = {}

    def denoise(ids):
        rows, place = ids.unique(dim=0, return_inverse=True)
        for row in rows:
            if tuple(row.tolist()) not in seen:
                seen[tuple(row.tolist())] = true_conditionals(row[None])[0]
        return torch.stack([seen[tuple(row.tolist())] for row in rows])[place]

    given = torch.zeros(4000, 1, dtype=torch.int64)
    rows = generate_by_unmasking(denoise, given, TOY_LENGTH, mask_id=TOY_VOCAB, steps=60, generator=generator())
    counts = Counter(tuple(row.tolist()) for row in rows)
    frequency = torch.tensor([counts[tuple(row.tolist())] / 4000 for row in TOY_ROWS], dtype=torch.float64)
    assert rows.max() < TOY_VOCAB and sum(counts.values()) == 4000
    assert (frequency - TOY_JOINT).abs().sum() / 2 < 0.06
    at_once = generate_by_unmasking(denoise, given, TOY_LENGTH, mask_id=TOY_VOCAB, steps=1, generator=generator())
    product = true_conditionals(torch.tensor([[0, TOY_VOCAB, TOY_VOCAB, TOY_VOCAB]]))[0].exp()
    for row, token in itertools.product(range(1, 4), range(TOY_VOCAB)):
        assert (at_once[:, row] == token).float().mean().item() == pytest.approx(product[row, token].item(), abs=0.03)


def test_unmasking_keeps_what_is_given_and_checks_its_arguments() -> None:
    model, given = tiny_model(vocab_size=VOCAB + 1, attention="bidirectional"), torch.tensor([[3, 7], [1, 1]])
    options = {"mask_id": VOCAB, "generator": generator()}
    rows = generate_by_unmasking(model, given, 5, steps=3, temperature=0.0, **options)
    again = generate_by_unmasking(model, given, 5, steps=1, temperature=0.0, **options)
    assert rows.shape == (2, 7) and torch.equal(rows[:, :2], given) and rows.max() < VOCAB
    masks = torch.cat((given, torch.full((2, 5), VOCAB)), dim=1)
    assert torch.equal(again[:, 2:], model(masks)[:, 2:, :VOCAB].argmax(dim=-1))
    for bad in ({"steps": 0}, {"num_new": 0}, {"temperature": -1.0}):
        with pytest.raises(ValueError, match="steps >= 1"):
            generate_by_unmasking(model, given, **({"num_new": 5, "steps": 3} | bad), **options)
    with pytest.raises(ValueError, match="at least 1 sample"):
        diffusion_bound(model, given, mask_id=VOCAB, samples=0, generator=generator())


# In one shape


@pytest.mark.parametrize("objective", catalogue.OBJECTIVES, ids=lambda o: o.name)
def test_each_objective_learns_a_batch_and_says_what_its_measure_is_worth(objective) -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=VOCAB, context_length=SEQ, d_model=16, num_layers=2, num_heads=2, d_ff=32)
    module, rows = objective.build(config), some_rows(batch=4).repeat(4, 1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        loss = objective.loss(module, rows, generator(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    with torch.no_grad():
        measured = objective.measure(module, rows, generator())
    worth = {"masked_lm": "not defined", "masked_diffusion": "upper bound"}
    assert measured.kind == worth.get(objective.name, "exact")
    assert (measured.nats is None) == (objective.name == "masked_lm")
    if measured.kind == "exact":
        causal = getattr(module, "model", module)
        expected = torch.nn.functional.cross_entropy(causal(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        assert measured.nats == pytest.approx(expected.item() * rows[:, 1:].numel(), rel=1e-4)

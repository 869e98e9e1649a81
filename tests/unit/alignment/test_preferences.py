"""Preference training: every loss by hand in float64, pairs from samples and from HH files, the reward model."""

from __future__ import annotations

import gzip
import json
import math

import pytest
import torch

from cs336_alignment.dpo import dpo_loss, log_sigmoid
from cs336_alignment.lockstep import LockstepSampler
from cs336_alignment.preference_training import DpoConfig, DpoTrainer, PreferencePair, read_hh, sample_pairs
from cs336_alignment.reward_model import RewardTrainer, score_sequences
from cs336_alignment.scalar_head import ScalarHead
from cs336_alignment.sft import clone_model
from cs336_basics.training_config import OptimizerConfig
from tests.unit.alignment.tiny_task import CharTokenizer, LastDigit, tiny_model

PAIRS = [PreferencePair("1+2=", "3", "4"), PreferencePair("a", "bb", "b#a"), PreferencePair("5+5=", "0", "10")]
FAST = OptimizerConfig(max_learning_rate=3e-3, schedule="constant", warmup_steps=0, weight_decay=0.0)


def h_values(model, reference, pair: PreferencePair) -> list[tuple[float, float, int]]:
    """(log pi, log pi - log pi_ref, tokens) of the chosen and the rejected response, end of text included."""
    tokenizer, found = CharTokenizer(), []
    for side in (pair.chosen, pair.rejected):
        prompt, response = tokenizer.encode(pair.prompt), [*tokenizer.encode(side), 0]
        ids, sums = [*prompt, *response], []
        for m in (model, reference):
            scores = torch.log_softmax(m(torch.tensor([ids[:-1]])).double(), dim=-1)[0]
            sums.append(sum(scores[t, ids[t + 1]].item() for t in range(len(prompt) - 1, len(ids) - 1)))
        found.append((sums[0], sums[0] - sums[1], len(response)))
    return found


@pytest.mark.parametrize(
    "settings", [{}, {"kind": "ipo"}, {"length_normalized": True}, {"nll_coefficient": 0.3}, {"microbatch": 2}], ids=str
)
def test_loss_by_hand(settings):
    config = DpoConfig(batch_size=3, beta=0.4, **settings)
    model, reference = tiny_model(0, dtype=torch.float64), tiny_model(1, dtype=torch.float64)
    losses = []
    for pair in PAIRS:
        (log_c, h_c, n_c), (_, h_r, n_r) = h_values(model, reference, pair)
        margin = h_c / n_c - h_r / n_r if config.length_normalized else h_c - h_r
        loss = (margin - 1 / 0.8) ** 2 if config.kind == "ipo" else math.log1p(math.exp(-0.4 * margin))
        losses.append(loss - config.nll_coefficient * log_c / n_c)
    record = DpoTrainer(model, reference, CharTokenizer(), PAIRS, config).step()
    assert record["loss"] == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_a_model_beside_itself():
    model = tiny_model()
    record = DpoTrainer(model, clone_model(model), CharTokenizer(), PAIRS, DpoConfig(batch_size=3)).step()
    assert record["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert record["reward_margin"] == pytest.approx(0, abs=1e-5)


def test_training_prefers_the_chosen_response():
    model = tiny_model()
    reference = clone_model(model)
    frozen = {name: value.clone() for name, value in reference.state_dict().items()}
    config = DpoConfig(num_steps=25, batch_size=3, optimizer=FAST)
    trainer = DpoTrainer(model, reference, CharTokenizer(), PAIRS, config, validation=PAIRS)
    records = [trainer.step() for _ in range(25)]
    assert records[-1]["preference_accuracy"] == 1 and records[-1]["loss"] < 0.5
    assert records[-1]["validation_preference_accuracy"] == 1
    assert all(torch.equal(value, frozen[name]) for name, value in reference.state_dict().items())


def test_log_sigmoid_at_the_ends():
    x = torch.tensor([-1000.0, -1.0, 0.0, 1.0, 1000.0], dtype=torch.float64, requires_grad=True)
    found = log_sigmoid(x)
    torch.testing.assert_close(found, torch.nn.functional.logsigmoid(x))
    found.sum().backward()
    torch.testing.assert_close(x.grad, torch.sigmoid(-x.detach()))


def test_gradient_of_dpo_by_differences():
    """d loss / d margin = -beta sigmoid(-beta margin): a pair that is right already hardly pulls."""
    for margin in (-2.0, 0.0, 3.0):
        h = torch.tensor([margin], dtype=torch.float64, requires_grad=True)
        dpo_loss(h, torch.zeros(1, dtype=torch.float64), 0.5).sum().backward()
        ends = [math.log1p(math.exp(-0.5 * (margin + e))) for e in (1e-6, -1e-6)]
        assert h.grad.item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize(("beta", "kind", "message"), [(0.0, "sigmoid", "beta"), (0.1, "hinge", "kind")])
def test_bad_loss(beta, kind, message):
    with pytest.raises(ValueError, match=message):
        dpo_loss(torch.zeros(1), torch.zeros(1), beta, kind)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "no preference pairs"), ([PreferencePair("1", "2", "2")], "same response twice"),
     ([PreferencePair("1" * 40, "2", "3")], "the model sees 32")],
)  # fmt: skip
def test_bad_pairs(pairs, message):
    with pytest.raises(ValueError, match=message):
        DpoTrainer(tiny_model(), tiny_model(), CharTokenizer(), pairs, DpoConfig())


def test_sampled_pairs_are_right_and_wrong():
    task, model = LastDigit(), tiny_model()
    pairs = sample_pairs(LockstepSampler(model, CharTokenizer()), task, task.examples("preference", 0), 0, samples=128)
    answers = {e.prompt: e.answer for e in task.examples("preference", 0)}
    assert pairs
    for pair in pairs:
        assert pair.chosen == answers[pair.prompt] != pair.rejected


def test_read_hh(tmp_path):
    turn = "\n\nHuman: {}\n\nAssistant: {}"
    items = [
        {"chosen": turn.format("Hi", "Hello"), "rejected": turn.format("Hi", "Go away")},
        {"chosen": turn.format("Hi", "a") + turn.format("More", "b"), "rejected": turn.format("Hi", "c")},
        {"chosen": turn.format("Same", "x"), "rejected": turn.format("Same", "x")},
        {"chosen": "no markers", "rejected": "no markers"},
    ]
    path = tmp_path / "helpful.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)
    assert read_hh([path]) == [PreferencePair("Hi", "Hello", "Go away", "helpful.jsonl.gz")]


def test_malformed_hh_names_the_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"chosen": "a", "rejected": "b"}\n{"chosen": 3}\n')
    with pytest.raises(ValueError, match="bad.jsonl, line 2"):
        read_hh([path])


def test_scores_are_read_behind_the_last_token():
    """Padding of a batch changes nothing: each row is scored as it is alone."""
    model = ScalarHead(tiny_model())
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    rows = [[1, 2, 3, 0], [4, 0], [5, 6, 7, 8, 9, 0]]
    together = score_sequences(model, rows, 0, "cpu")
    for row, score in zip(rows, together, strict=True):
        assert score.item() == pytest.approx(model(torch.tensor([row]))[0, -1].item(), abs=1e-5)


def test_reward_model_learns_the_order():
    config = DpoConfig(num_steps=25, batch_size=3, optimizer=FAST)
    trainer = RewardTrainer(tiny_model(), CharTokenizer(), PAIRS, config, validation=PAIRS)
    first = trainer.step()
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6), "the head begins at zero"
    records = [trainer.step() for _ in range(24)]
    assert records[-1]["validation_preference_accuracy"] == 1
    assert trainer.score("1+2=", "3") > trainer.score("1+2=", "4")

"""Judges of the boards: honest code is measured as an independent calculation has it, each cheat is caught by its probe.

One sandboxed process serves all tests: `cheating_entries.py` reads its part from a file before each question.
"""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_course.leaderboards.board import Board, Division, Metric
from cs336_course.leaderboards.conversation import ProbeFailure, staged
from cs336_course.leaderboards.evidence_folder import ROOT, pack_code
from cs336_course.leaderboards.judges import attention
from cs336_course.leaderboards.judges.evaluation_text import evaluation_texts
from cs336_course.leaderboards.judges.judging import JUDGES, Judging
from cs336_course.leaderboards.judges.timing import Timed, clock_probe
from cs336_course.leaderboards.overlap import CANARY, measure_overlap
from cs336_course.leaderboards.verification import PASSED
from tests.course.cheating_entries import bigram_table

SECRET = b"a secret of the tests"


class Actor:
    """A conversation in which the code plays a part."""

    def __init__(self, talk, mode):
        self.talk, self.mode = talk, mode
        self.tier = talk.tier

    def ask(self, questions):
        (self.talk._worker.stage / "student" / "mode").write_text(self.mode)
        return self.talk.ask(questions)


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    pack_code([ROOT / "cs336_basics"], Path(__file__).parent / "cheating_entries.py", folder / "code.zip")
    (folder / "artifacts").mkdir()
    (folder / "artifacts" / "known.json").write_text("[]")
    with staged(folder / "code.zip", folder / "artifacts") as conversation:
        yield conversation


def board(kind, **settings):
    metric = Metric("m", "u", "asc", 3, 0.0, 1e9, 0.1)
    return Board("b", "B", "basics", kind, metric, "r", "n", date(2026, 1, 1), (Division("d", "D", settings=settings),))


def judge(talk, kind, mode, evidence=Path(), half="hidden", **settings):
    chosen = board(kind, **settings)
    actors = (Actor(talk, mode), Actor(talk, "honest")) if talk else ()
    judging = Judging(chosen, chosen.divisions[0], evidence, half, SECRET, *actors)
    return JUDGES[kind].measure(judging)


# loss

LOSS = {"source": "stories", "documents": 5, "excess": True, "probe_windows": 3}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    """Artifacts of a model over bytes with a context of 64."""
    folder = tmp_path_factory.mktemp("evidence")
    vocab = {i: bytes([i]) for i in range(256)} | {256: END_OF_TEXT.encode()}
    Tokenizer(vocab, [], [END_OF_TEXT]).save(folder / "artifacts" / "tokenizer")
    (folder / "artifacts" / "model_config.json").write_text('{"context_length": 64}')
    return folder


def texts_of(half):
    chosen = board("loss", **LOSS)
    rng = Judging(chosen, chosen.divisions[0], Path(), half, SECRET).random("texts")
    return evaluation_texts("stories", LOSS["documents"], rng, max_chars=2000)


def test_honest_loss_is_that_of_a_direct_sum(talk, evidence):
    found = judge(talk, "loss", "honest", evidence, **LOSS)
    table = torch.log_softmax(bigram_table().double(), dim=-1)
    nats, sizes, floors = [], [], []
    for text in texts_of("hidden"):
        ids = [256, *text.text.encode(), 256]
        nats.append(-sum(float(table[a, b]) for a, b in zip(ids, ids[1:], strict=False)))
        sizes.append(len(ids) - 2)
        floors.append(text.floor_nats)
    assert found.failed == {}
    assert set(found.probes) == {"round trip", "normalisation", "causality", "batch", "repeat", "order", "memorised"}
    assert found.beside["bits per byte"] == pytest.approx(sum(nats) / sum(sizes) / math.log(2), rel=1e-5)
    assert found.value == pytest.approx(100 * (sum(nats) / sum(floors) - 1), rel=1e-5)
    jackknife = [sum(nats) - n for n in nats], [sum(floors) - f for f in floors]
    values = np.array(jackknife[0]) / np.array(jackknife[1])
    expected = 100 * math.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())
    assert found.standard_error == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize(
    ("mode", "probe"),
    [("unnormalised", "normalisation"), ("nan", "normalisation"), ("lazy", "answers"), ("one_short", "answers"),
     ("targets_only", "answers")],
)  # fmt: skip
def test_answers_that_are_no_distribution_end_the_measurement(talk, evidence, mode, probe):
    with pytest.raises(ProbeFailure) as caught:
        judge(talk, "loss", mode, evidence, half="public", **LOSS)
    assert caught.value.probe == probe


@pytest.mark.parametrize(
    ("mode", "probe"),
    [("peeks", "causality"), ("leaks_across_batch", "batch"), ("trains_on_the_test", "repeat"),
     ("remembers_first", "order")],
)  # fmt: skip
def test_cheating_models_are_caught_by_their_probe(talk, evidence, mode, probe):
    found = judge(talk, "loss", mode, evidence, half="public", **LOSS)
    assert probe in found.failed


def test_a_model_that_knows_the_public_half_is_caught(talk, evidence):
    known = talk._worker.stage / "student" / "artifacts" / "known.json"
    known.chmod(0o644)
    known.write_text(json.dumps([list(text.text.encode()) for text in texts_of("public")]))
    found = judge(talk, "loss", "memorised", evidence, **LOSS)
    assert set(found.failed) == {"memorised"} and "easier" in found.failed["memorised"]


def test_a_tokenizer_that_cannot_spell_the_text_is_refused(talk, tmp_path):
    vocab = {i: bytes([i]) for i in range(32, 110)} | {256: END_OF_TEXT.encode()}
    Tokenizer(vocab, [], [END_OF_TEXT]).save(tmp_path / "artifacts" / "tokenizer")
    (tmp_path / "artifacts" / "model_config.json").write_text('{"context_length": 64}')
    with pytest.raises(ProbeFailure, match="round trip"):
        judge(talk, "loss", "honest", tmp_path, **LOSS)


# times

SHAPE = {"heads": 2, "tokens": 200, "d": 32, "repeats": 20, "rounds": 1, "warmups": 1}


def test_attention_timed_against_itself_is_near_one(talk):
    found = judge(talk, "attention-time", "honest", **SHAPE)
    assert found.failed == {}
    assert 0.4 < found.value < 2.5 and found.beside["repeats"] == 20
    assert found.beside["p10 ms"] <= found.beside["median ms"] <= found.beside["p90 ms"]


@pytest.mark.parametrize(
    ("mode", "probe"),
    [("not_causal", "results"), ("half_precision", "results"), ("stale", "results"), ("later", "results"),
     ("lazy", "answers")],
)  # fmt: skip
def test_wrong_attention_is_caught(talk, mode, probe):
    with pytest.raises(ProbeFailure) as caught:
        judge(talk, "attention-time", mode, **{**SHAPE, "tokens": 40})
    assert caught.value.probe == probe


def test_a_patched_timer_is_caught(talk, monkeypatch):
    """At the board's own size. A busy machine may hide it once; what the probe says of given times is the next test."""
    monkeypatch.setattr(attention, "settled", lambda measure: measure())  # a failure is what is looked for
    for _ in range(4):
        found = judge(talk, "attention-time", "patches_timer", **{**SHAPE, "heads": 4, "tokens": 384})
        if "clock" in found.failed:
            break
    assert "patched timer" in found.failed["clock"]


def test_time_that_passes_outside_of_the_clock_is_noticed():
    reference = Timed([0.040] * 20, [0.042] * 20)
    assert "patched timer" in clock_probe(Timed([0.001] * 20, [0.050] * 20), reference)
    assert clock_probe(Timed([0.030] * 20, [0.033] * 20), reference) == PASSED


STEP = {"vocab_size": 50, "context_length": 16, "d_model": 16, "num_layers": 1, "num_heads": 2, "d_ff": 32, "batch_size": 2,
        "repeats": 20, "rounds": 1, "warmups": 1}  # fmt: skip


def test_steps_are_compared_with_the_reference(talk):
    assert judge(talk, "step-time", "honest", **STEP).failed.keys() <= {"clock"}
    with pytest.raises(ProbeFailure, match="results: the entry's loss of step 4"):
        judge(talk, "step-time", "skips_updates", **STEP)


def test_ids_are_compared_with_the_reference(talk):
    sizes = {"vocab_size": 270, "text_kb": 2, "repeats": 20, "rounds": 1, "warmups": 1}
    assert judge(talk, "tokenizer-speed", "honest", **sizes).failed.keys() <= {"clock"}
    with pytest.raises(ProbeFailure, match="results: the entry's ids"):
        judge(talk, "tokenizer-speed", "loses_a_merge", **sizes)


def test_a_clock_that_hides_a_few_milliseconds_is_noticed():
    """The boards' calls take no longer; and whoever lies in six calls of ten lowers the median as well."""
    honest = Timed([0.004] * 20, [0.012] * 20)
    assert clock_probe(honest, honest) == PASSED
    assert "patched timer" in clock_probe(Timed([0.0001] * 20, [0.012] * 20), honest)
    assert "patched timer" in clock_probe(Timed([0.0001] * 12 + [0.004] * 8, [0.012] * 20), honest)


def test_the_clock_probe_knows_a_restless_machine_from_a_lie():
    """Calls of 20 ms, 5 ms around them; a lie hides 15 ms of each call; unrest is on both sides alike."""
    rng = np.random.default_rng(0)

    def timed(inside_ms, around_ms, unrest_ms):
        inside = 1e-3 * (inside_ms + rng.uniform(0, 1, 30))
        return Timed(list(inside), list(inside + 1e-3 * (around_ms + rng.uniform(0, unrest_ms, 30))))

    for unrest in (1, 60):
        assert clock_probe(timed(20, 5, unrest), timed(20, 5, unrest)) == PASSED
    assert "patched timer" in clock_probe(timed(5, 20, 1), timed(20, 5, 1))
    assert "around a call of 5." in clock_probe(timed(5, 20, 1), timed(20, 5, 1))


def test_too_few_repeats_are_no_measurement(talk):
    with pytest.raises(ValueError, match="at least 20"):
        judge(talk, "attention-time", "honest", **{**SHAPE, "repeats": 5})


# predictions, answers, data


def test_predictions_must_be_finite(talk):
    assert judge(talk, "scaling-prediction", "honest", worlds=2).value > 1
    with pytest.raises(ProbeFailure, match="finite losses"):
        judge(talk, "scaling-prediction", "nan", worlds=2)


def test_half_of_the_answers_are_right(talk):
    found = judge(talk, "accuracy", "honest", problems=40, batch=20)
    assert found.value == 50.0 and found.failed == {}
    assert found.standard_error == pytest.approx(100 * math.sqrt(0.25 / 40))


def test_answers_by_chance_are_caught(talk):
    assert "repeat" in judge(talk, "accuracy", "random", problems=20, batch=20).failed


def test_overlap_counts_as_brute_force_does():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    evaluation = [" ".join(rng.choice(words, 80)) for _ in range(3)]
    copied = evaluation[0].split()[10:40]
    training = [" ".join(rng.choice(words, 50)), "Before. " + ", ".join(copied).upper() + " after"]

    def grams(text):
        flat = "".join(c if c.isalnum() else " " for c in text.lower()).split()
        return {tuple(flat[i : i + 13]) for i in range(len(flat) - 12)}

    wanted = set().union(*map(grams, evaluation))
    found = measure_overlap(training, evaluation)
    assert found.grams == len(wanted) and found.shared_grams == len(wanted & set().union(*map(grams, training))) == 18
    assert "13-grams" in found.verdict(allowed=0.05) and found.verdict(allowed=0.5) is None
    assert "canary" in measure_overlap([f"x {CANARY} y"], evaluation).verdict(allowed=1.0)


def test_the_crawl_gives_validation_text_and_clean_pages():
    from cs336_course.leaderboards.judges import filtered
    from cs336_data.synthetic_crawl.crawl import CrawlOptions

    small = CrawlOptions(articles=20, reference=1, boilerplate=2, spam=2, adult=1, hostile=1, foreign=2, copies=2,
                         near_copies=2, broken=1, files=1)  # fmt: skip
    validation, pages = filtered.crawl_texts(filtered.FilteredSettings(crawl=small))
    own = measure_overlap([], validation, allowed=pages)
    assert 0 < own.grams < measure_overlap([], validation).grams  # stock sentences are left out, the rest is not
    assert measure_overlap(pages, validation, allowed=pages).shared_grams == 0
    assert measure_overlap(validation[:1], validation, allowed=pages).verdict(allowed=0.01) is not None


def test_documents_that_quote_the_validation_text_are_refused(tmp_path, monkeypatch):
    from cs336_course.leaderboards.judges import filtered

    validation = [f"{' '.join(f'word{i * j % 37}' for i in range(40))}\n" for j in range(2, 6)]
    stock = f"{' '.join(f'stock{i}' for i in range(30))}\n"
    validation[0] += stock
    monkeypatch.setattr(filtered, "crawl_texts", lambda settings: (validation, [f"as we say, {stock}"]))
    (tmp_path / "artifacts").mkdir()
    documents = tmp_path / "artifacts" / "documents.jsonl"
    settings = {"steps": 4, "seeds": 1, "context_length": 32, "d_model": 16, "num_layers": 1, "batch_size": 2}
    plain = [json.dumps({"text": "the quick brown fox jumps over the lazy dog " * 20 + stock})] * 3
    documents.write_text("\n".join(plain))
    assert judge(None, "filtered-data", "", tmp_path, **settings).failed == {}
    documents.write_text("\n".join([*plain, json.dumps({"text": validation[0]})]))
    with pytest.raises(ProbeFailure, match="overlap: .* 13-grams"):
        judge(None, "filtered-data", "", tmp_path, **settings)
    documents.write_text(json.dumps({"text": "too little"}))
    with pytest.raises(ProbeFailure, match="budget: only"):
        judge(None, "filtered-data", "", tmp_path, **settings)
    documents.write_text('{"txt": 1}')
    with pytest.raises(ProbeFailure, match="evidence"):
        judge(None, "filtered-data", "", tmp_path, **settings)

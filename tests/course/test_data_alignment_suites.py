"""Hidden suites of assignments 4 and 5: their oracles against other oracles, and what right solutions may do differently."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cs336_course.grading import isolation
from cs336_course.grading.client import Limits
from cs336_course.grading.judge import grade, judgement
from cs336_course.grading.rules import lint_source
from cs336_course.grading.suite import generator, load_suite
from cs336_course.grading.worker import alignment_drivers
from cs336_course.misconceptions.diagnosis import answer_of, diagnose, name

load_suite("data", secret=b"imports the hidden modules", only=["exact_deduplication"])
load_suite("alignment", secret=b"imports the hidden modules", only=["compute_entropy"])
from cs336_hidden import (  # type: ignore[import-not-found]  # noqa: E402
    alignment_model,
    alignment_policy,
    alignment_supplement,
    data_duplicates,
    data_texts,
)


def problem(assignment: str, slug: str, secret: bytes = b"1"):
    (found,) = load_suite(assignment, secret=secret, only=[slug]).problems
    return found


def outcome(found, **functions):
    """(answers, ids of wrong cases) of a submission."""
    entry = SimpleNamespace(adapters=SimpleNamespace(**functions))
    answers = {case.id: answer_of(entry, case) for case in found.cases}
    return answers, {case.id for case in found.cases if judgement(case, answers[case.id])}


def named(found, **functions) -> str | None:
    answers, failed = outcome(found, **functions)
    match = name(found, answers, failed)
    return match.name if match else None


@pytest.mark.parametrize(("count", "characters"), [(50, 250), (80, 239), (80, 801), (123, 456)])
def test_pages_have_the_words_and_letters_asked_for(count, characters):
    """By splitting, and under other tokenizers, which must not cut a word."""
    page = data_texts.page(np.random.default_rng(count), count, characters)
    words = page.split()
    assert (len(words), sum(map(len, words))) == (count, characters)
    assert words == re.findall(r"\w+", page) == re.findall(r"\w+|[^\w\s]+", page)
    assert {"the", "of", "and"} <= set(words)


def test_a_classifier_with_other_scores_passes_and_its_mistakes_are_named():
    """A toy that knows the suite's labels only by obvious words, with scores of its own."""

    def quality(text):
        chrome = sum(
            word in text for word in ("Log in", "Register", "phpBB", "cart", "Copyright", "GMT", "Posts", "FAQ")
        )
        return ("wiki" if text.count(".") > 3 * chrome + 2 else "cc"), 0.731

    found = problem("data", "quality_classifier")
    right = {"run_classify_quality": quality}
    assert outcome(found, **right)[1] == set()
    float32 = {"run_classify_quality": lambda text: (quality(text)[0], np.float32(0.6))}
    assert named(found, **float32) == "float32"
    swapped = {"run_classify_quality": lambda text: ({"wiki": "cc", "cc": "wiki"}[quality(text)[0]], 0.66)}
    assert named(found, **swapped) == "labels-swapped"


def test_which_document_of_a_cluster_stays_is_free():
    """All pairs by brute force, the last of a cluster kept: right but for the problem's demand that hashing decides."""

    def run(input_files, num_hashes, num_bands, ngrams, jaccard_threshold, output_directory):
        given = {p.name: p.read_bytes() for p in map(Path, input_files)}
        groups = data_duplicates.clusters(
            given, {"ngrams": ngrams, "num_bands": 2, "jaccard_threshold": jaccard_threshold}
        )
        Path(output_directory).mkdir()
        for file in {number: file for file, number in groups.items()}.values():
            (Path(output_directory) / file).write_bytes(given[file])

    found = problem("data", "minhash_deduplication")
    answers, failed = outcome(found, run_minhash_deduplication=run)
    assert failed == {"hashing"} and name(found, answers, failed).name == "all-pairs"


def test_clusters_by_hand():
    texts = {"a": b"One two three four", "b": b"one, TWO three-four!", "c": b"one two three five", "d": b"", "e": b"x"}
    options = {"ngrams": 2, "num_bands": 9, "jaccard_threshold": 0.5}
    groups = data_duplicates.clusters(texts, options)
    assert groups["a"] == groups["b"] == groups["c"] and len({groups[key] for key in "ade"}) == 3  # 2 of 4 pairs shared
    assert len(set(data_duplicates.clusters(texts, options | {"jaccard_threshold": 0.51}).values())) == 4


def test_the_tiny_model_is_the_same_in_numpy_and_torch():
    rng = np.random.default_rng(0)
    weights, ids = alignment_model.weights(rng, 15), rng.integers(0, 15, size=9)
    model = alignment_drivers.TinyModel({k: v.astype(np.float64) for k, v in weights.items()})
    logits = model(torch.from_numpy(ids)[None]).logits[0]
    np.testing.assert_allclose(alignment_model.logits(weights, ids), logits.detach().numpy(), rtol=1e-9)
    expected = torch.log_softmax(logits, -1)[torch.arange(9), torch.from_numpy(ids)].detach().numpy()
    np.testing.assert_allclose(alignment_model.log_probs(weights, ids, ids), expected, rtol=1e-9)
    np.testing.assert_allclose(
        alignment_model.hidden(weights, ids) @ weights["U"].T, logits.detach().numpy(), rtol=1e-6
    )


def test_the_oracle_of_encoding_is_what_the_tokenizer_does():
    pytest.importorskip("transformers")
    rng = np.random.default_rng(1)
    words = alignment_supplement._words(rng)
    tokenizer = alignment_drivers.make_tokenizer(alignment_model.tokenizer(words, spaces=True))
    text = alignment_supplement.ALPACA.format(*(alignment_supplement._text(rng, words, n) for n in (3, 5)))
    assert alignment_supplement._encode(words, text) == tokenizer.encode(text)


@pytest.mark.parametrize("kind", ["no_baseline", "reinforce_with_baseline", "grpo_clip"])
def test_slopes_of_the_losses_by_finite_differences(kind):
    batch = alignment_policy.draw_batch(np.random.default_rng(2), 4, 5)
    batch = {key: value.astype(np.float64) for key, value in batch.items()}
    _, slope = alignment_policy.tokens(kind, batch, 0.2)
    sides = [
        alignment_policy.tokens(kind, {**batch, "policy_log_probs": batch["policy_log_probs"] + h}, 0.2)[0]
        for h in (1e-6, -1e-6)
    ]
    np.testing.assert_allclose((sides[0] - sides[1]) / 2e-6, slope, atol=1e-5)


def test_cases_of_large_margins_are_below_zero():
    """So that a sigmoid before the logarithm gives infinity."""
    found = problem("alignment", "dpo_loss", b"another")
    large = next(case for case in found.cases if case.id == "large")
    words = alignment_supplement._words(generator(b"another", "0/alignment/dpo_loss"))
    assert 40 * alignment_supplement._margin(words, large.inputs) < -100


LINES = """
from collections import Counter
from pathlib import Path

def run_exact_line_deduplication(input_files, output_directory):
    lines = {Path(p).name: Path(p).read_bytes().split(b"\\n") for p in input_files}
    counts = Counter(x for v in lines.values() for x in (v if v[-1] else v[:-1]))
    Path(output_directory).mkdir()
    for name, v in lines.items():
        kept = [x + b"\\n" for x in v[:-1] if counts[x] == 1] + [x for x in v[-1:] if counts[x] == 1]
        Path(output_directory, name).write_bytes(b"".join(kept))
"""
MASK_IS_LATE = """
import torch

def run_tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer):
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    rows = [(encode(p), encode(o)) for p, o in zip(prompt_strs, output_strs)]
    width = max(len(p) + len(o) for p, o in rows)
    full = torch.tensor([p + o + [pad] * (width - len(p) - len(o)) for p, o in rows])
    mask = torch.tensor([[len(p) <= i < len(p) + len(o) for i in range(width)] for p, o in rows])
    return {"input_ids": full[:, :-1], "labels": full[:, 1:], "response_mask": mask[:, :-1]}
"""


@pytest.mark.parametrize(
    ("assignment", "slug", "code", "share", "advice"),
    [
        ("data", "exact_deduplication", LINES, 1, None),
        ("alignment", "tokenize_prompt_and_output", MASK_IS_LATE, 0, "one place late"),
    ],
)
def test_graded_in_a_worker(assignment, slug, code, share, advice, tmp_path):
    """A whole solution in one file, right or with one mistake: points and the mistake's name come out of the worker."""
    suite = load_suite(assignment, secret=b"worker", only=[slug])
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "adapters.py").write_text(code)
    report = grade(tmp_path, suite, limits=Limits(case_s=60), diagnose=diagnose)
    cases = report.slugs[0].cases
    assert report.score == share * suite.max_score, [case for case in cases if case.status != "passed"]
    assert advice is None or any(advice in case.diagnosis for case in cases)


def test_a_folder_of_models_is_shown_to_submissions(tmp_path, monkeypatch):
    monkeypatch.setenv("CS336_GRADER_ASSETS", str(tmp_path))
    assert str(tmp_path) in isolation.visible_paths(tmp_path / "stage")
    monkeypatch.setenv("CS336_GRADER_ASSETS", str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="full path of a folder"):
        isolation.visible_paths(tmp_path / "stage")


@pytest.mark.parametrize(
    ("assignment", "code", "flagged"),
    [
        ("data", "from datasketch import MinHash", True),
        ("data", "import fasttext, resiliparse, xxhash", False),
        ("alignment", "from transformers import Trainer", True),
        ("alignment", "import transformers as t\nx = t.Trainer()", True),
        ("alignment", "from transformers import AutoModelForCausalLM\nimport torch.nn.functional as F", False),
    ],
)
def test_ready_made_parts_are_flagged(assignment, code, flagged):
    assert bool(lint_source(code.encode(), "x.py", assignment)) is flagged


def test_editions_of_assignment_5():
    """Points of the coded problems by the handouts of the years: 19 and 19, and 7 of the supplement in both."""
    suites = {year: load_suite("alignment", secret=b"e", edition=year) for year in ("all", "2024", "2025", "2026")}
    assert {year: suite.max_score for year, suite in suites.items()} == {"all": 43, "2024": 7, "2025": 26, "2026": 26}
    assert len({suite.sha256 for suite in suites.values()}) == 4
    with pytest.raises(ValueError, match="no problem 'compute_entropy'"):
        load_suite("alignment", secret=b"e", edition="2026", only=["compute_entropy"])
    assert load_suite("data", secret=b"e", edition="2024", only=["mask_pii"]).max_score == 3

"""The tokenizer report: a golden table, figures recomputed by brute force, intervals against known distributions."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter

import numpy as np
import pytest

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.intervals import bootstrap_ratio_interval
from cs336_basics.tokenization import Tokenizer
from cs336_basics.tokenization.comparison import TextCount, count_text, count_units, format_comparison
from cs336_basics.tokenization.report import ReportOptions, comparisons, measure
from cs336_basics.tokenization.sample_texts import read_sample, sample_kinds, sample_languages
from cs336_basics.tokenization.token_quality import (
    encode_throughput,
    length_histogram,
    token_counts,
    undertrained_tokens,
    vocabulary_share,
)
from cs336_course.cli import main
from tests.fixtures.texts import FOREIGN, documents
from tests.fixtures.tokenizer_files import load_vocab_and_merges

EOT = "<|endoftext|>"

# Printed by nanochat's scripts/tok_eval.py in November 2025: text, bytes, tokens of GPT-2, GPT-4 and its own tokenizer.
PRINTED = [
    ("news", 1819, 404, 387, 395, "+2.2", "-2.1"),
    ("korean", 893, 745, 364, 842, "-13.0", "-131.3"),
    ("code", 1259, 576, 309, 509, "+11.6", "-64.7"),
    ("math", 1834, 936, 832, 1010, "-7.9", "-21.4"),
    ("science", 1112, 260, 249, 234, "+10.0", "+6.0"),
    ("fwe-train", 4208518, 900364, 874799, 841530, "+6.5", "+3.8"),
    ("fwe-val", 4400098, 954009, 927977, 924921, "+3.0", "+0.3"),
]
GOLDEN = """\
Comparison with GPT-2:
===============================================================================================
Text Type  Bytes    GPT-2           Ours            Relative     Better    |
                    Tokens  Ratio   Tokens  Ratio   Diff %      |
-----------------------------------------------------------------------------------------------
news       1819     404     4.50    395     4.61       +2.2%     Ours      |
korean     893      745     1.20    842     1.06      -13.0%     GPT-2     |
code       1259     576     2.19    509     2.47      +11.6%     Ours      |
math       1834     936     1.96    1010    1.82       -7.9%     GPT-2     |
science    1112     260     4.28    234     4.75      +10.0%     Ours      |
fwe-train  4208518  900364  4.67    841530  5.00       +6.5%     Ours      |
fwe-val    4400098  954009  4.61    924921  4.76       +3.0%     Ours      |""".replace("|", "")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(*load_vocab_and_merges(), [EOT])


@pytest.fixture(scope="module")
def bytes_only() -> Tokenizer:
    return Tokenizer({i: bytes([i]) for i in range(256)}, [])


def printed(column: int) -> list[TextCount]:
    return [TextCount(row[0], row[1], row[column]) for row in PRINTED]


def test_the_printed_table():
    assert format_comparison("GPT-2", printed(2), printed(4), color=False) == GOLDEN


@pytest.mark.parametrize(("name", "column", "differences"), [("GPT-2", 2, 5), ("GPT-4", 3, 6)])
def test_the_printed_differences_and_colours(name, column, differences):
    plain = format_comparison(name, printed(column), printed(4), color=False).splitlines()[5:]
    painted = format_comparison(name, printed(column), printed(4), color=True).splitlines()[5:]
    for line, colours, row in zip(plain, painted, PRINTED, strict=True):
        assert line.split()[6] == f"{row[differences]}%"
        assert re.sub(r"\x1b\[\d+m", "", colours) == line
        ours_better = row[4] < row[column]
        codes = re.findall(r"\x1b\[(\d+)m", colours)
        theirs, ours = ("91", "92") if ours_better else ("92", "91")
        assert codes == [theirs, "0", theirs, "0", ours, "0", ours, "0", ours, "0"]
        assert line.split()[-1] == ("Ours" if ours_better else name)


def test_ties_and_wrong_comparisons():
    same = [TextCount("x", 10, 5)]
    lines = format_comparison("B", same, same, color=True).splitlines()
    assert lines[-1].split()[-1] == "Tie" and "\x1b[9" not in lines[-1] and "+0.0%" in lines[-1]
    with pytest.raises(ValueError, match="different texts"):
        format_comparison("B", same, [TextCount("y", 10, 5)], color=False)
    with pytest.raises(ValueError, match="must not be empty"):
        TextCount("x", 0, 0)


def test_counts_are_those_of_the_text(tokenizer):
    text = "".join(FOREIGN)
    count = count_text(tokenizer, "x", text)
    assert (count.num_bytes, count.num_tokens) == (len(text.encode()), len(tokenizer.encode(text)))
    dropping = Tokenizer(*load_vocab_and_merges(), pattern=r"\w+")
    with pytest.raises(ValueError, match="does not come back"):
        count_text(dropping, "x", "a, b")


def test_units_add_up_for_any_text(tokenizer):
    for text in [*sample_kinds().values(), *sample_languages().values(), documents(5000, seed=1), "...\n\n?", "a"]:
        unit_bytes, unit_tokens = count_units(tokenizer, text)
        assert sum(unit_bytes) == len(text.encode()) and sum(unit_tokens) == len(tokenizer.encode(text))
        ids, starts, place = tokenizer.encode(text), [], 0
        for token_id in ids:
            starts.append(place)
            place += len(tokenizer.vocab[token_id])
        ends = np.cumsum(unit_bytes)
        expected = Counter(next(i for i, end in enumerate(ends) if start < end) for start in starts)
        assert list(unit_tokens) == [expected[i] for i in range(len(unit_bytes))]


def test_undertrained_tokens_against_a_counter(tokenizer):
    text = documents(40_000, seed=3)
    occurrences = Counter(tokenizer.encode(text))
    for threshold in (1, 5, 50):
        expected = sorted(
            (occurrences[token_id], token_id)
            for token_id, token in tokenizer.vocab.items()
            if occurrences[token_id] < threshold and token != EOT.encode()
        )
        rare = undertrained_tokens(tokenizer, token_counts(tokenizer, text), threshold=threshold)
        assert [(token.count, token.token_id) for token in rare] == expected
        assert all(tokenizer.vocab[token.token_id] == token.token for token in rare)
    with pytest.raises(ValueError, match="threshold must be at least 1; got 0"):
        undertrained_tokens(tokenizer, token_counts(tokenizer, text), threshold=0)
    with pytest.raises(ValueError, match="one entry per id: 1757; got 3"):
        undertrained_tokens(tokenizer, np.zeros(3, dtype=np.int64), threshold=1)


def test_ids_with_gaps(tokenizer):
    spread = Tokenizer({3 * i: token for i, token in tokenizer.vocab.items()}, tokenizer.merges, [EOT])
    text = documents(5000, seed=3)
    counts = token_counts(spread, text)
    rare = undertrained_tokens(spread, counts, threshold=2)
    close = undertrained_tokens(tokenizer, token_counts(tokenizer, text), threshold=2)
    assert [token.token for token in rare] == [token.token for token in close]
    assert length_histogram(spread, counts) == length_histogram(tokenizer, token_counts(tokenizer, text))


def test_histogram_sums_to_tokens_bytes_and_vocabulary(tokenizer):
    text = documents(20_000, seed=4).replace(EOT, "") + "".join(FOREIGN)
    histogram = length_histogram(tokenizer, token_counts(tokenizer, text))
    assert sum(count for _, count in histogram.values()) == len(tokenizer.encode(text))
    assert sum(length * count for length, (_, count) in histogram.items()) == len(text.encode())
    lengths = Counter(len(token) for token in tokenizer.vocab.values() if token != EOT.encode())
    assert {length: kinds for length, (kinds, _) in histogram.items()} == lengths


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_against_a_model(tied):
    config = ModelConfig(vocab_size=7, d_model=32, num_layers=2, num_heads=4, context_length=8, tie_embeddings=tied)
    share = vocabulary_share(config, 100)
    model = TransformerLM(dataclasses.replace(config, vocab_size=100))
    numbers = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert share.total == sum(numbers.values())
    assert share.embedding == 3200 == numbers["token_embeddings.weight"] and share.head == (0 if tied else 3200)
    assert share.share == (share.embedding + share.head) / sum(numbers.values())


def test_throughput_is_bytes_over_seconds(tokenizer, monkeypatch):
    ticks = iter([0.0, 2.0, 10.0, 10.5, 20.0, 21.0])
    monkeypatch.setattr("cs336_basics.tokenization.token_quality.time.perf_counter", lambda: next(ticks))
    assert encode_throughput(tokenizer, "h\u00e9llo" * 100) == 600.0


# Intervals


def test_bootstrap_interval_covers_the_true_ratio():
    """Units with a known ratio of means, 3: of 300 intervals at 90 % about 270 hold it (binomial, 4 sigma)."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        tokens = rng.integers(5, 30, size=60)
        units = 3 * tokens + rng.normal(0, 8, size=60)
        low, high = bootstrap_ratio_interval(units, tokens, seed=trial, num_resamples=300, confidence=0.9)
        covered += low <= 3 <= high
    assert abs(covered - 270) < 4 * (300 * 0.9 * 0.1) ** 0.5 + 5  # the percentile method covers slightly less


def test_bootstrap_width_is_that_of_the_normal_approximation():
    """Delta method: sd of the ratio = sd(units - r tokens) / (sqrt(n) mean(tokens))."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(5, 30, size=2000)
    units = 3 * tokens + rng.normal(0, 8, size=2000)
    ratio = units.sum() / tokens.sum()
    sigma = np.std(units - ratio * tokens) / (2000**0.5 * tokens.mean())
    low, high = bootstrap_ratio_interval(units, tokens, seed=0, num_resamples=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * sigma, rel=0.08)
    assert (high + low) / 2 == pytest.approx(ratio, abs=0.2 * sigma)


def test_bootstrap_of_few_units_enumerates_all_resamples():
    """Two units: resamples (a,a) 1/4, (a,b) 1/2, (b,b) 1/4, so the 40 % interval is the middle ratio alone."""
    assert bootstrap_ratio_interval([1, 9], [1, 1], seed=0, confidence=0.4) == (5.0, 5.0)
    assert bootstrap_ratio_interval([1, 9], [1, 1], seed=0, confidence=0.9) == (1.0, 9.0)
    assert bootstrap_ratio_interval([4, 2], [2, 0], seed=0, confidence=0.9) == (2.0, 3.0)  # never 2/0
    assert bootstrap_ratio_interval([6], [3], seed=0) == (2.0, 2.0)
    same = [bootstrap_ratio_interval([1, 5, 2], [1, 2, 3], seed=7) for _ in range(2)]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("numerators", "denominators", "options"),
    [([], [], {}), ([1], [1, 2], {}), ([1], [0], {}), ([1, 1], [2, -1], {}), ([1], [1], {"confidence": 1.0})],
)
def test_bootstrap_refuses(numerators, denominators, options):
    with pytest.raises(ValueError, match="as many numerators|confidence in"):
        bootstrap_ratio_interval(numerators, denominators, seed=0, **options)


# The whole report


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    (folder / "train.txt").write_text(documents(30_000, seed=2), encoding="utf-8")
    (folder / "valid.txt").write_text(documents(15_000, seed=6) + "".join(FOREIGN), encoding="utf-8")
    return folder


def test_every_figure_of_the_report(tokenizer, bytes_only, corpora):
    model = ModelConfig(vocab_size=1, d_model=64, num_layers=2, num_heads=1)
    options = ReportOptions(
        model=model, train=corpora / "train.txt", valid=corpora / "valid.txt", threshold=3, num_resamples=50
    )
    results = measure({"Ours": tokenizer, "bytes": bytes_only}, options)
    assert list(results["texts"]) == ["news", "korean", "code", "math", "science", "train", "valid"]
    train = (corpora / "train.txt").read_text(encoding="utf-8").replace(EOT, "\n")
    valid = (corpora / "valid.txt").read_text(encoding="utf-8").replace(EOT, "\n")
    texts = {**sample_kinds(), "train": train, "valid": valid}
    for part, of_part in (("texts", texts), ("languages", sample_languages())):
        for name, row in results[part].items():
            size, tokens = len(of_part[name].encode()), len(tokenizer.encode(of_part[name]))
            assert (row["bytes"], row["tokens"]) == (size, {"Ours": tokens, "bytes": size})
            assert row["ratio"] == {"Ours": size / tokens, "bytes": 1.0}
            assert row["difference"]["bytes"] == pytest.approx(100 * (1 - tokens / size))
            for value, (low, high) in (
                (row["ratio"]["Ours"], row["ratio_interval"]["Ours"]),
                (row["difference"]["bytes"], row["difference_interval"]["bytes"]),
            ):
                assert low <= value <= high
    ratios = [len(text.encode()) / len(tokenizer.encode(text)) for text in (train, valid)]
    gap = results["gap"]["Ours"]
    assert [gap["train"], gap["valid"]] == ratios and gap["change_percent"] == 100 * (ratios[1] / ratios[0] - 1)
    assert gap["change_percent"] < 0 == results["gap"]["bytes"]["change_percent"]
    assert results["sample"] == {
        "source": "train", "bytes": len(train.encode()), "tokens": len(tokenizer.encode(train)),
    }  # fmt: skip
    assert results["counts"] == sorted(Counter(tokenizer.encode(train)).values(), reverse=True)
    assert results["undertrained"]["ordinary_tokens"] == 1756
    assert json.loads(json.dumps(results)) == results
    assert len(comparisons(results, color=False)) == 1


def test_special_tokens_are_ordinary_text_in_comparisons(tokenizer, bytes_only, tmp_path):
    (tmp_path / "t.txt").write_text("a <|pad|> b", encoding="utf-8")
    padded = Tokenizer(tokenizer.vocab, tokenizer.merges, ["<|pad|>"])
    options = ReportOptions(model=ModelConfig(vocab_size=1), train=tmp_path / "t.txt", num_resamples=5)
    results = measure({"Ours": padded, "bytes": bytes_only}, options)
    assert results["texts"]["train"]["tokens"]["Ours"] == len(tokenizer.encode("a <|pad|> b")) > 3
    assert results["gap"] == {}


def test_samples_are_cut_between_characters(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("ab\u4f60".encode() + EOT.encode() + b"c")
    assert [read_sample(str(path), max_bytes=n) for n in (2, 3, 4, 5, 99)] == [
        "ab",
        "ab",
        "ab",
        "ab\u4f60",
        "ab\u4f60\nc",
    ]
    path.write_bytes(b"ab\xff\xfe")
    with pytest.raises(ValueError, match="not UTF-8 at byte 2"):
        read_sample(str(path), max_bytes=99)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_sample(str(path), max_bytes=99)


def test_the_command(tokenizer, bytes_only, corpora, tmp_path, capsys):
    tokenizer.save(tmp_path / "tok")
    bytes_only.save(tmp_path / "bytes")
    command = ["basics", "tokenizer", "report", str(tmp_path / "tok"), "--baselines", f"B={tmp_path / 'bytes'}"]
    command += ["--train", str(corpora / "train.txt"), "--valid", str(corpora / "valid.txt"), "--threshold", "4"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert comparisons(stored, color=False)[0] in out and "\x1b" not in out
    page = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    train = read_sample(str(corpora / "train.txt"), max_bytes=10**6)
    occurrences = Counter(tokenizer.encode(train))
    rare = sum(occurrences[i] < 4 for i, token in tokenizer.vocab.items() if token != EOT.encode())
    for shown in (f"{rare:,} of 1,756 tokens", f"{stored['gap']['Ours']['change_percent']:+.1f}"):
        assert shown in out and shown in page
    assert comparisons(stored, color=False)[0] in page and (tmp_path / "out" / "report.html").is_file()
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 4
    assert main([*command, f"B={tmp_path / 'tok'}"]) == 2 or "two tokenizers" in capsys.readouterr().err

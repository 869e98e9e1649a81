"""The pages of the tokenizer report: tables and plots from the numbers that `report.measure` gives.

Left out: measuring. Read next: `cs336_basics/runs/report.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cs336_basics.runs.plots import plot_ranked, plot_values
from cs336_basics.runs.report import KeyFigure, KeyFigures, Paragraph, Picture, Preformatted, Report, Section, Table

_LISTED = 40  # rare tokens in tables; results.json has all


def measure_tables(results: Mapping[str, Any]) -> list[Table]:
    """Every table but the comparisons: intervals, languages, gap, rare tokens, lengths, parameters, speed."""
    tables = [_interval_table(results), _language_table(results)]
    if results["gap"]:
        tables.append(_gap_table(results))
    return [*tables, _rare_table(results), _length_table(results), _parameter_table(results), _speed_table(results)]


def build_report(results: Mapping[str, Any], comparisons: Sequence[str]) -> Report:
    """The whole document.

    Raises:
        ImportError: matplotlib is not installed.
    """
    intervals, languages, *others = measure_tables(results)
    figures = [
        KeyFigure("tokens in the vocabulary", f"{next(iter(results['vocab_size'].values())):,}"),
        KeyFigure(f"occur fewer than {results['undertrained']['threshold']} times", _rare_share(results)),
        KeyFigure("encoding", f"{results['bytes_per_second'] / 1e6:.1f} MB/s"),
    ]
    compared = Section("By kind of text").add(*(Preformatted(text) for text in comparisons), intervals)
    return Report("Tokenizer report").add(
        Paragraph(
            "**Ratio** is bytes per token. A higher one is not always better: long tokens are rare, their embeddings "
            "see little training, and each token costs parameters in embedding and head."
        ),
        KeyFigures(figures),
        compared.add(_ratio_picture(results, "texts", "ratio-by-text")),
        Section("By language").add(
            Paragraph("The same sentences in each language: tokens can be compared, not only ratios."),
            languages,
            _ratio_picture(results, "languages", "ratio-by-language"),
        ),
        Section("Tokens, parameters, speed").add(*others, *_count_pictures(results)),
    )


def _interval_table(results: Mapping[str, Any]) -> Table:
    """Ratios and differences with their intervals."""
    names = list(results["vocab_size"])
    rows = [
        [
            text,
            *(_with_interval(row["ratio"][name], row["ratio_interval"][name], ".2f") for name in names),
            *(_with_interval(row["difference"][name], row["difference_interval"][name], "+.1f") for name in names[1:]),
        ]
        for text, row in results["texts"].items()
    ]
    headers = ["text", *(f"ratio {name}" for name in names), *(f"% fewer than {name}" for name in names[1:])]
    return Table(headers, rows, caption="With 95 % bootstrap intervals over sentences")


def _language_table(results: Mapping[str, Any]) -> Table:
    """Ratio per language, and tokens against English for the same content."""
    names = list(results["vocab_size"])
    languages = results["languages"]
    english = next(iter(languages.values()))["tokens"]
    rows = [
        [
            language,
            row["bytes"],
            row["characters"],
            *(_with_interval(row["ratio"][name], row["ratio_interval"][name], ".2f") for name in names),
            *(f"{row['tokens'][name] / english[name]:.2f}" for name in names),
        ]
        for language, row in languages.items()
    ]
    headers = ["language", "bytes", "characters", *(f"ratio {n}" for n in names), *(f"x English {n}" for n in names)]
    return Table(headers, rows, caption="The same sentences by language")


def _gap_table(results: Mapping[str, Any]) -> Table:
    """Training and validation text."""
    rows = [
        [name, f"{gap['train']:.3f}", f"{gap['valid']:.3f}", f"{gap['change_percent']:+.1f}"]
        for name, gap in results["gap"].items()
    ]
    return Table(
        ["tokenizer", "ratio train", "ratio valid", "change %"], rows, align="lrrr",
        caption="From training to validation text",
    )  # fmt: skip


def _rare_table(results: Mapping[str, Any]) -> Table:
    """The rarest tokens."""
    rare, sample = results["undertrained"], results["sample"]
    tokens = rare["tokens"]
    listed = f"; the first {_LISTED}" if len(tokens) > _LISTED else ""
    caption = (
        f"Undertrained: {len(tokens):,} of {rare['ordinary_tokens']:,} tokens ({_rare_share(results)}) occur fewer "
        f"than {rare['threshold']} times in {sample['tokens']:,} tokens of {sample['source']}{listed}"
    )
    rows = [[token_id, text, count] for token_id, text, count in tokens[:_LISTED]]
    return Table(["id", "token", "occurrences"], rows, align="rlr", caption=caption)


def _length_table(results: Mapping[str, Any]) -> Table:
    """Bytes per token."""
    occurrences = results["sample"]["tokens"]
    rows = [
        [int(length), kinds, count, f"{100 * count / occurrences:.1f}"]
        for length, (kinds, count) in results["lengths"].items()
    ]
    return Table(
        ["bytes", "tokens of the vocabulary", "occurrences", "% of occurrences"], rows, align="rrrr",
        caption="Bytes per token",
    )  # fmt: skip


def _parameter_table(results: Mapping[str, Any]) -> Table:
    """Embedding and head."""
    model = results["model"]
    rows = [
        [name, p["vocab_size"], p["embedding"], p["head"], p["total"], f"{100 * p['share']:.1f}"]
        for name, p in results["parameters"].items()
    ]
    caption = f"Parameters in a model of d_model {model['d_model']} and {model['num_layers']} layers"
    headers = ["tokenizer", "vocabulary", "embedding", "head", "all", "embedding + head %"]
    return Table(headers, rows, align="lrrrrr", caption=caption)


def _speed_table(results: Mapping[str, Any]) -> Table:
    """Throughput of encoding."""
    rows = [[f"{results['bytes_per_second'] / 1e6:.2f}", results["sample"]["bytes"]]]
    return Table(["MB/s", "bytes"], rows, align="rr", caption="Encoding the sample in this library, one process")


def _ratio_picture(results: Mapping[str, Any], part: str, name: str) -> Picture:
    """Ratios as bars."""
    rows, tokenizers = results[part], list(results["vocab_size"])
    figure = plot_values(
        list(rows),
        {tokenizer: [row["ratio"][tokenizer] for row in rows.values()] for tokenizer in tokenizers},
        intervals={tokenizer: [row["ratio_interval"][tokenizer] for row in rows.values()] for tokenizer in tokenizers},
        ylabel="bytes per token",
    )
    return Picture(figure, name, f"bytes per token of each of the {part}, a bar per tokenizer")


def _count_pictures(results: Mapping[str, Any]) -> list[Picture]:
    """Lengths as a histogram, and occurrences by rank."""
    lengths = results["lengths"]
    vocabulary, sample = sum(kinds for kinds, _ in lengths.values()), results["sample"]["tokens"]
    shares = {
        "vocabulary": [100 * kinds / vocabulary for kinds, _ in lengths.values()],
        "occurrences": [100 * count / sample for _, count in lengths.values()],
    }
    histogram = plot_values(list(lengths), shares, ylabel="%", xlabel="bytes per token")
    ranked = plot_ranked(
        results["counts"], threshold=results["undertrained"]["threshold"], ylabel="occurrences in the sample"
    )
    return [
        Picture(histogram, "bytes-per-token", "share of tokens by their length in bytes"),
        Picture(ranked, "occurrences", "occurrences of each token in the sample, from the most frequent to the rarest"),
    ]


def _rare_share(results: Mapping[str, Any]) -> str:
    rare = results["undertrained"]
    return f"{100 * len(rare['tokens']) / rare['ordinary_tokens']:.1f} %"


def _with_interval(value: float, interval: Sequence[float], form: str) -> str:
    low, high = interval
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"

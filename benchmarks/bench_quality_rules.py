"""Quality rules: Gopher, C4 and FineWeb by our rules and by datatrove's filters, on the same pages, in one process.

    python benchmarks/bench_quality_rules.py [--quick]

Every page goes through four filters (Gopher repetition, Gopher quality, C4 without its rule on line ends, FineWeb),
each of which sees the page as it was, so that all verdicts are compared and none is hidden by an earlier one. Ours
share the words of a page, as they do in a rule set. Time: CPU seconds of one core, ours and theirs in turn in blocks of
100 pages; words are learnt within the measured time. Verdicts: kept or rejected, and the reason; all differences are
listed.

Needs datatrove and spaCy (`make bench` installs them).
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections import Counter

from rule_pages import pages

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_data.rules.c4 import C4
from cs336_data.rules.fineweb import FineWebQuality
from cs336_data.rules.gopher import GopherQuality, GopherRepetition
from cs336_data.rules.page import Page, WordTable

OURS = {
    "gopher_repetition": GopherRepetition(), "gopher_quality": GopherQuality(),
    "c4": C4(terminal_punctuation=False), "fineweb": FineWebQuality(),
}  # fmt: skip
SAME_REASON = {
    "gopher_short_doc": "gopher_too_few_words", "gopher_long_doc": "gopher_too_many_words",
    "gopher_below_avg_threshold": "gopher_short_words", "gopher_above_avg_threshold": "gopher_long_words",
    "gopher_too_many_hashes": "gopher_many_hashes", "gopher_too_many_ellipsis": "gopher_many_ellipses",
    "gopher_too_many_bullets": "gopher_bullet_lines", "gopher_too_many_end_ellipsis": "gopher_ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher_few_alphabetic_words", "gopher_enough_stop_words": "gopher_few_stop_words",
    "dup_para_frac": "gopher_duplicate_paragraphs", "dup_para_char_frac": "gopher_duplicate_paragraph_characters",
    "dup_line_frac": "gopher_duplicate_lines", "dup_line_char_frac": "gopher_duplicate_line_characters",
    "lorem_ipsum": "c4_lorem_ipsum", "curly_bracket": "c4_curly_bracket", "too_few_sentences": "c4_too_few_sentences",
    "line_punct_ratio": "fineweb_few_punctuated_lines", "short_line_ratio": "fineweb_short_lines",
    "char_dup_ratio": "fineweb_duplicate_lines", "list_ratio": "fineweb_many_newlines",
    **{f"top_{n}_gram": f"gopher_top_{n}_gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"gopher_duplicated_{n}_grams" for n in range(5, 11)},
}  # fmt: skip
"""datatrove's names of the reasons in ours."""


def their_filters() -> dict:
    """datatrove's filters with the same settings."""
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    return {
        "gopher_repetition": GopherRepetitionFilter(), "gopher_quality": GopherQualityFilter(),
        "c4": C4QualityFilter(filter_no_terminal_punct=False), "fineweb": FineWebQualityFilter(),
    }  # fmt: skip


def judge_theirs(filters: dict, text: str) -> dict[str, tuple[str | None, str]]:
    """Per filter: reason in our words or None, and the text after it."""
    from datatrove.data import Document

    verdicts = {}
    for name, judge in filters.items():
        document = Document(text=text, id="0")
        answer = judge.filter(document)
        reason = None if answer is True else SAME_REASON.get(answer[1], answer[1])
        verdicts[name] = (reason, document.text if answer is True else "")
    return verdicts


def judge_ours(table: WordTable, text: str) -> dict[str, tuple[str | None, str]]:
    """The same by our rules."""
    page, verdicts = Page(text, table), {}
    for name, rule in OURS.items():
        looked_at = Page(text, table) if name == "c4" else page  # C4 changes its page
        reason = rule(looked_at)
        verdicts[name] = (reason, looked_at.text if reason is None else "")
    return verdicts


def compare(texts: list[str], *, block: int) -> dict:
    """Times per block and all differences."""
    filters, table = their_filters(), WordTable()
    judge_theirs(filters, texts[0]), judge_ours(table, texts[0])  # loads models, compiles
    table = WordTable()  # but words are learnt within the measured time
    rates: dict[str, list[float]] = {"ours": [], "datatrove": []}
    seconds = {"ours": 0.0, "datatrove": 0.0}
    differences, rejected = [], Counter[str]()
    for start in range(0, len(texts), block):
        part = texts[start : start + block]
        megabytes = sum(len(text.encode()) for text in part) / 1e6
        began = time.process_time()
        ours = [judge_ours(table, text) for text in part]
        middle = time.process_time()
        theirs = [judge_theirs(filters, text) for text in part]
        ended = time.process_time()
        for name, spent in (("ours", middle - began), ("datatrove", ended - middle)):
            rates[name].append(megabytes / spent)
            seconds[name] += spent
        for number, (our, their) in enumerate(zip(ours, theirs, strict=True), start):
            rejected.update(reason for reason, _ in our.values() if reason)
            differences += [
                {"page": number, "filter": name, "ours": our[name][0], "datatrove": their[name][0],
                 "same_text": our[name][1] == their[name][1]}
                for name in OURS if our[name] != their[name]
            ]  # fmt: skip
        print(f"{start + len(part)} pages, {len(differences)} differences", flush=True)
    total = sum(len(text.encode()) for text in texts) / 1e6
    verdicts = {entry["page"] for entry in differences if (entry["ours"] is None) != (entry["datatrove"] is None)}
    return {
        "pages": len(texts), "megabytes": round(total, 2),
        "megabytes_per_second": {name: round(total / spent, 3) for name, spent in seconds.items()},
        "median_over_blocks": {name: round(statistics.median(values), 3) for name, values in rates.items()},
        "ratio": round(seconds["datatrove"] / seconds["ours"], 1),
        "pages_with_another_verdict": len(verdicts),
        "same_verdicts": round(1 - len(verdicts) / len(texts), 5),
        "differences": differences, "rejections_by_reason": dict(rejected.most_common()),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write results/quality_rules.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pages, no result file")
    parser.add_argument("--pages", type=int, default=1000, help="number of pages; 1000 take about a minute")
    parser.add_argument("--seed", type=int, default=0, help="of the pages")
    arguments = parser.parse_args()
    texts = list(pages(200 if arguments.quick else arguments.pages, seed=arguments.seed))
    result = compare(texts, block=100)
    for name, value in result.items():
        print(f"{name}: {value}")
    if not arguments.quick:
        environment = {"measured": datetime.date.today().isoformat(), "environment": describe_environment()}
        write_json("benchmarks/results/quality_rules.json", {"seed": arguments.seed, **result} | environment)


if __name__ == "__main__":
    main()

"""Verbs that look at single texts and make classifiers: `cs336 data extract, pii, rules, classify, train-quality ...`.

Texts come from files or standard input: .jsonl with a "text" per line, .warc and .wet (also .gz), .html, .pdf, or plain
text. Results go to standard output, one JSON object per line for documents. Read next: `cs336_data/cli.py`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cs336_basics.runs.command_line import parse, print_result
from cs336_data.document import Document

Files = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
Switch = tyro.conf.FlagCreatePairsOff[bool]
Method = Literal["plain", "main_content", "trafilatura"]


@dataclass(frozen=True)
class Extract:
    """Print the text of web pages, PDFs and crawl archives as one JSON document per line."""

    files: Files
    """.html, .pdf, .warc(.gz), .wet(.gz), .txt or .jsonl; - for HTML on standard input"""
    method: Method = "plain"
    """plain keeps all that a reader sees; the others look for the article"""
    text: Switch = False
    """print texts instead of JSON"""


def extract(argv: list[str]) -> None:
    """`cs336 data extract`."""
    o = parse(Extract, argv, "data extract", example="data extract page.html --text")
    for document in _documents(o.files, method=o.method):
        print(document.text if o.text else json.dumps(asdict(document), ensure_ascii=False))


@dataclass(frozen=True)
class Pii:
    """List e-mail addresses, telephone numbers and IP addresses with their places, or mask them."""

    files: Files
    """as for `data extract`"""
    mask: Switch = False
    """print the masked documents instead of the list"""


def pii(argv: list[str]) -> None:
    """`cs336 data pii`."""
    from cs336_data.pii import find_spans, mask_document

    o = parse(Pii, argv, "data pii", example="data pii page.html")
    for document in _documents(o.files):
        if o.mask:
            print(json.dumps(asdict(mask_document(document)), ensure_ascii=False))
            continue
        for span in find_spans(document.text):
            print(json.dumps({"id": document.id, **asdict(span)}, ensure_ascii=False))


@dataclass(frozen=True)
class Rules:
    """Judge documents by a set of quality rules: how many each rule rejects, or each document's verdict."""

    files: Files
    """as for `data extract`"""
    set: Annotated[str, tyro.conf.arg(name="set")] = "fineweb"
    """course, gopher_quality, gopher_repetition, gopher, c4, c4_without_punctuation, fineweb_quality, fineweb, dclm"""
    each: Switch = False
    """print each document's id and verdict instead of the totals"""
    json: Switch = False
    """print the totals as JSON"""


def rules(argv: list[str]) -> None:
    """`cs336 data rules`."""
    from cs336_data.rules.rule_sets import rule_filter

    o = parse(Rules, argv, "data rules", example="data rules crawl.warc.wet.gz --set gopher")
    judge, counts = rule_filter(o.set), Counter[str]()
    for document in _documents(o.files):
        reason = judge(document)
        counts[reason or "kept"] += 1
        if o.each:
            print(json.dumps({"id": document.id, "reason": reason}, ensure_ascii=False))
    if not o.each:
        print_result({"documents": counts.total(), **dict(counts.most_common())}, as_json=o.json)


@dataclass(frozen=True)
class Classify:
    """What the classifiers say of documents: language, quality, nsfw, toxic, and which model said it."""

    files: Files
    """as for `data extract`"""
    assets: Path | None = None
    """folder with the official models; by default the course's folders, then the models of this package"""
    quality_model: Path | None = None
    """a model made by `data train-quality`"""


def classify(argv: list[str]) -> None:
    """`cs336 data classify`."""
    from cs336_data.language import LanguageIdentifier
    from cs336_data.quality_classifier import QualityClassifier
    from cs336_data.toxicity import HarmClassifier

    o = parse(Classify, argv, "data classify", example="data classify page.html")
    language = LanguageIdentifier(assets=o.assets)
    quality = QualityClassifier(o.quality_model, assets=o.assets)
    harm = [HarmClassifier(kind, assets=o.assets) for kind in ("nsfw", "toxic")]
    for document in _documents(o.files):
        code, score = language.identify(document.text)
        result: dict[str, object] = {
            "id": document.id,
            "language": {"label": code, "score": round(score, 4), "model": language.model_name},
        }
        label, score = quality.classify(document.text)
        result["quality"] = {"label": label, "score": round(score, 4), "model": quality.model_name}
        for classifier in harm:
            page = classifier.judge_page(document.text)
            result[classifier.kind] = {
                "highest": round(page.highest, 4), "mean": round(page.mean, 4), "model": classifier.model_name
            }  # fmt: skip
        print(json.dumps(result, ensure_ascii=False), flush=True)


@dataclass(frozen=True)
class TrainQuality:
    """Train a quality classifier on good pages against other pages, measure it on pages held back, sweep thresholds."""

    good: Path
    """pages of reference quality, as for `data extract`"""
    other: Path
    """pages of the crawl"""
    out: Path = Path("quality_classifier.bin")
    """the model; its measures go beside it as .card.json"""
    kind: Literal["fasttext", "pages"] = "fasttext"
    """fasttext: word pairs (needs floret); pages: nineteen counts (a .json file, needs nothing)"""
    held_out: float = 0.2
    """share of the pages held back"""
    epochs: int = 5
    """passes of fastText"""
    learning_rate: float = 0.2
    """of fastText"""
    seed: int = 0
    """of fastText; same seed, same model"""
    json: Switch = False
    """print the result as JSON"""


def train_quality(argv: list[str]) -> None:
    """`cs336 data train-quality`."""
    o = parse(
        TrainQuality, argv, "data train-quality",
        example="data train-quality --good wiki.jsonl --other crawl.jsonl --out quality_classifier.bin",
    )  # fmt: skip
    from cs336_basics.runs.atomic import write_json
    from cs336_data.quality_classifier import train_quality

    good, other = ([document.text for document in _documents([path])] for path in (o.good, o.other))
    trained = train_quality(
        good,
        other,
        o.out,
        kind=o.kind,
        held_out=o.held_out,
        epochs=o.epochs,
        learning_rate=o.learning_rate,
        seed=o.seed,
    )
    card = o.out.with_suffix(".card.json")
    write_json(card, {
        "kind": trained.kind, "good": str(o.good), "other": str(o.other), "training_pages": trained.num_training,
        "seed": o.seed, "held_out": trained.evaluation.as_dict(), "sweep": [asdict(row) for row in trained.sweep],
    })  # fmt: skip
    measured = trained.evaluation
    low, high = measured.balanced_accuracy_interval
    result = {
        "model": str(o.out), "card": str(card), "training pages": trained.num_training, "held out": measured.items,
        "balanced accuracy": f"{measured.balanced_accuracy:.3f} ({low:.3f} to {high:.3f})",
        **{
            f"at {row.threshold:.2f}": f"keeps {row.kept:.1%}, precision "
            f"{'-' if row.precision is None else f'{row.precision:.3f}'}, recall {row.recall:.3f}"
            for row in trained.sweep[1::4]
        },
    }  # fmt: skip
    print_result(result, as_json=o.json)


@dataclass(frozen=True)
class BuildModels:
    """Make this package's own harm and quality models again, with their cards, from generated data."""

    out: Path = Path("models")
    """folder for the models and cards"""
    seed: int = 0
    """same seed, same models"""
    json: Switch = False
    """print the result as JSON"""


def build_models(argv: list[str]) -> None:
    """`cs336 data build-models`."""
    o = parse(BuildModels, argv, "data build-models", example="data build-models --out /tmp/models")
    from cs336_data.classifiers.build import build_harm, build_quality

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    results = build_harm(o.out, seed=o.seed, say=say) | {"quality": build_quality(o.out, seed=o.seed, say=say)}
    shown = {}
    for name, measured in results.items():
        low, high = measured.balanced_accuracy_interval
        shown[name] = (
            f"balanced accuracy {measured.balanced_accuracy:.3f} ({low:.3f} to {high:.3f}) of {measured.items}"
        )
    print_result({"folder": str(o.out), **shown}, as_json=o.json)


def _documents(files: Iterable[Path], *, method: str = "plain") -> Iterator[Document]:
    """The documents of files of any kind; what could not be read is told on standard error.

    Raises:
        FileNotFoundError: no such file. ValueError: no files, or a .jsonl line without text.
    """
    from cs336_data.extraction import decode_html, extract_html, extract_pdf, record_to_document
    from cs336_data.warc import read_records

    files = list(files)
    if not files:
        raise ValueError("give at least one file, or - for HTML on standard input")
    lost = Counter[str]()
    for path in files:
        name, suffixes = str(path), path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
        if suffixes in ("warc", "wet"):
            for record in read_records(path, counts=lost):
                document = record_to_document(record, method=method)
                if isinstance(document, str):
                    lost[document] += 1
                else:
                    yield document
            continue
        if suffixes == "jsonl":
            yield from _json_lines(path)
            continue
        data = sys.stdin.buffer.read() if name == "-" else path.read_bytes()
        if suffixes == "pdf":
            text = extract_pdf(data)
        elif suffixes in ("html", "htm") or name == "-":
            text = extract_html(data, method=method)
        else:
            text = decode_html(data)[0]
        if text is None:
            lost["not_extractable"] += 1
        else:
            yield Document(name, "", text)
    lost.pop("records", None)
    if lost:
        print("not read: " + ", ".join(f"{reason} {count}" for reason, count in lost.most_common()), file=sys.stderr)


def _json_lines(path: Path) -> Iterator[Document]:
    """Documents of a .jsonl or .jsonl.gz file."""
    import gzip

    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            text = entry.get("text") if isinstance(entry, dict) else None
            if not isinstance(text, str):
                raise ValueError(f'{path}, line {number}: expected a JSON object with a "text"; got {line[:60]!r}')
            yield Document(str(entry.get("id", f"{path.name}:{number}")), str(entry.get("url", "")), text)

"""The tour's stage of text and tokens: two corpora, two tokenizers, and what each makes of the other's text.

    stories   synthetic, exact entropy known: what the tour's model is trained on
    stdlib    the sources of the Python library: real text that every machine has

The files lie as everywhere: corpora/<name>/{train,valid}.txt, a tokenizer's folder per corpus, and the stories as token
files. Handout: train_bpe_tinystories, train_bpe_expts_owt, tokenizer_experiments. Read next: `tour_pretraining.py`.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.corpora.stdlib_source import write_stdlib
from cs336_basics.corpora.stories import write_stories
from cs336_basics.data import encode_file
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.report import Paragraph, Preformatted, Section, Table
from cs336_basics.runs.stage import Stage
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.progress import progress_bar
from cs336_basics.tokenization.tokenizer import Tokenizer

FOLDER = "tokenizers"
CORPORA = ("stories", "stdlib")
STORIES_TOKENIZER = f"{FOLDER}/stories"
STORIES_CLOZE = f"{FOLDER}/corpora/stories/cloze.jsonl"
STORIES_TEXT = f"{FOLDER}/corpora/stories/train.txt"
TRAIN_TOKENS, VALID_TOKENS = f"{FOLDER}/tokens/train.bin", f"{FOLDER}/tokens/valid.bin"
RESULTS = f"{FOLDER}/results.json"
_PARALLEL_STORIES = 5_000  # fewer are drawn sooner than other processes start
_STDLIB_VALID_FRACTION = 0.2  # of few files, so that none of Python's versions leaves the split empty
_SAMPLE_BYTES = 200_000  # of validation text per compression figure


@dataclass(frozen=True)
class TokenizerStageOptions:
    """Sizes of the corpora and vocabularies."""

    num_train_stories: int
    num_valid_stories: int
    num_cloze: int
    stories_vocab_size: int
    stdlib_bytes: int
    stdlib_vocab_size: int
    seed: int


def tokenizers_stage(options: TokenizerStageOptions) -> Stage:
    """Write both corpora, train both tokenizers, encode the stories, compare."""
    tokenizer_files = [
        f"{FOLDER}/{name}/{file}" for name in CORPORA for file in ("vocab.json", "merges.txt", "special_tokens.json")
    ]
    token_files = [f"{path}{suffix}" for path in (TRAIN_TOKENS, VALID_TOKENS) for suffix in ("", ".json")]
    return Stage(
        name=FOLDER, title="text and tokenizers", options=options, inputs=(),
        outputs=(STORIES_TEXT, STORIES_CLOZE, *tokenizer_files, *token_files, RESULTS),
        run=_run, section=_section,
    )  # fmt: skip


def _run(directory: Path, options: TokenizerStageOptions) -> None:
    folder = directory / FOLDER
    manifests = _write_corpora(folder / "corpora", options)
    sizes = {"stories": options.stories_vocab_size, "stdlib": options.stdlib_vocab_size}
    trained = {name: _train(folder, name, vocab_size) for name, vocab_size in sizes.items()}
    tokenizers = {name: tokenizer for name, (tokenizer, _) in trained.items()}
    for split in ("train", "valid"):
        nats = manifests["stories"][split]["nats"]
        text = folder / "corpora" / "stories" / f"{split}.txt"
        encode_file(tokenizers["stories"], text, folder / "tokens" / f"{split}.bin", nats=nats)
    results = {
        "corpora": {name: {s: manifests[name][s]["bytes"] for s in ("train", "valid")} for name in CORPORA},
        "training_seconds": {name: seconds for name, (_, seconds) in trained.items()},
        "vocab_size": {name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()},
        "wanted_vocab_size": sizes,
        "bytes_per_token": {
            name: {corpus: _bytes_per_token(tokenizer, folder, corpus) for corpus in CORPORA}
            for name, tokenizer in tokenizers.items()
        },
        "longest_tokens": {name: _longest_tokens(tokenizer) for name, tokenizer in tokenizers.items()},
        "example": {name: _split_example(tokenizer, folder) for name, tokenizer in tokenizers.items()},
    }
    write_json(directory / RESULTS, results)


def _write_corpora(folder: Path, options: TokenizerStageOptions) -> dict[str, dict[str, Any]]:
    """Both corpora's manifests; what is there already is not made again."""
    processes = (os.cpu_count() or 1) if options.num_train_stories >= _PARALLEL_STORIES else 1
    with progress_bar("writing stories", enabled=True) as report:
        stories = write_stories(
            folder / "stories", num_train=options.num_train_stories, num_valid=options.num_valid_stories,
            num_cloze=options.num_cloze, seed=options.seed, num_processes=processes, progress=report,
        )  # fmt: skip
    stdlib = write_stdlib(folder / "stdlib", max_bytes=options.stdlib_bytes, valid_fraction=_STDLIB_VALID_FRACTION)
    return {"stories": stories, "stdlib": stdlib}


def _train(folder: Path, name: str, vocab_size: int) -> tuple[Tokenizer, float]:
    """A tokenizer of the corpus `name` and the seconds its training took; read back when it is there already."""
    target, note = folder / name, folder / name / "training.json"
    if not note.exists():
        started = time.perf_counter()
        vocab, merges = train_bpe(folder / "corpora" / name / "train.txt", vocab_size, [END_OF_TEXT], progress=True)
        seconds = round(time.perf_counter() - started, 2)
        Tokenizer(vocab, merges, [END_OF_TEXT]).save(target)
        write_json(note, {"seconds": seconds})
    return Tokenizer.load(target), json.loads(note.read_text(encoding="utf-8"))["seconds"]


def _valid_text(folder: Path, corpus: str) -> str:
    """The beginning of a corpus's validation text, without end-of-text tokens."""
    text = (folder / "corpora" / corpus / "valid.txt").read_bytes()[:_SAMPLE_BYTES].decode("utf-8", errors="ignore")
    return text.replace(END_OF_TEXT, "")


def _bytes_per_token(tokenizer: Tokenizer, folder: Path, corpus: str) -> float:
    text = _valid_text(folder, corpus)
    return len(text.encode("utf-8")) / len(tokenizer.encode(text))


def _longest_tokens(tokenizer: Tokenizer, count: int = 8) -> list[str]:
    """The longest tokens as text; specials and runs of blanks and dashes left out."""
    tokens = {token for token in tokenizer.vocab.values() if token != END_OF_TEXT.encode() and token.strip().isalnum()}
    longest = sorted(tokens, key=lambda token: (-len(token), token))[:count]
    return [token.decode("utf-8", errors="replace") for token in longest]


def _split_example(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """The tokens of a sentence of the stories."""
    text = _valid_text(folder, "stories").split("\n")[0][:90]
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


_EXPLANATION = """
A tokenizer is trained once and then fixed: byte-pair encoding starts from the 256 bytes and keeps joining the most
frequent neighbours. What it has seen it packs tightly; on other text it falls back to shorter pieces. The table shows
both tokenizers on both validation texts, in bytes per token (more is better): each is best at home, and the larger
vocabulary travels better.
"""


def _vocabulary_note(results: dict[str, Any]) -> str:
    """Says which tokenizers stopped early."""
    short = [name for name in CORPORA if results["vocab_size"][name] < results["wanted_vocab_size"][name]]
    return f"On {' and '.join(short)} the merges ended early: every word had become one token." if short else ""


def _section(directory: Path) -> Section:
    results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    rows = [
        [
            name, f"{results['corpora'][name]['train'] / 1e6:.1f} MB", results["vocab_size"][name],
            *(round(results["bytes_per_token"][name][corpus], 2) for corpus in CORPORA),
            f"{results['training_seconds'][name]:.1f} s",
        ]
        for name in CORPORA
    ]  # fmt: skip
    headers = ["trained on", "text", "vocabulary", *(f"{corpus}, bytes/token" for corpus in CORPORA), "time"]
    table = Table(headers, rows, align="lrrrrr", caption=_vocabulary_note(results))
    longest = Table(
        ["tokenizer", "longest tokens"],
        [[name, "  ".join(map(repr, results["longest_tokens"][name]))] for name in CORPORA],
    )
    example = "\n".join(f"{name:8} {'|'.join(results['example'][name])}" for name in CORPORA)
    caption = "The same sentence cut into tokens by each."
    return Section("Text and tokens", [Paragraph(_EXPLANATION), table, longest, Preformatted(example, caption)])

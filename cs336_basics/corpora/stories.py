"""Stories with a known entropy: a synthetic corpus for which the best possible loss can be stated.

Every story is drawn from the grammar of `story_grammar.py`, which knows the exact probability of each text. The mean of
-log p over documents is therefore an entropy floor that no model can beat in expectation, whatever its tokenizer:

    floor in nats per token = nats / tokens          floor in bits per byte = nats / (ln 2 * bytes)

The lookups among the events ("Now Mia was in the garden.") and the summing-up of every story ("In the end, Mia was in
...") can be predicted only by a reader who tracks the state of the world, so the distance of a model from the floor
shows how much of agreement, reference and state it has learnt.

Left out: the variety of real text; see `download.py` and `stdlib_source.py`. Read next: `story_vocabulary.py` (the
words), `story_world.py` (the state), `story_events.py` (the sentences), `story_grammar.py` (the story as a whole),
`story_narrators.py` (the probabilities), `story_cloze.py` (the questions).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import matching_manifest, write_documents
from cs336_basics.corpora.story_cloze import ClozeQuestion, cloze_questions
from cs336_basics.corpora.story_grammar import GRAMMAR_VERSION
from cs336_basics.corpora.story_narrators import Answer, Story, generate_story, log_probability
from cs336_basics.corpora.story_vocabulary import DEFAULT, EventWeights, StoryConfig, ThingGroup
from cs336_basics.runs.atomic import atomic_write, write_json

__all__ = [
    "DEFAULT",
    "Answer",
    "ClozeQuestion",
    "EventWeights",
    "Story",
    "StoryConfig",
    "ThingGroup",
    "cloze_questions",
    "entropy_floor",
    "generate_story",
    "log_probability",
    "write_stories",
]


def entropy_floor(split: Mapping[str, Any], *, num_tokens: int) -> dict[str, float]:
    """Return the best expected loss on a split of the manifest.

    Args:
        split: `manifest["train"]` or `manifest["valid"]`.
        num_tokens: predicted tokens of that split under your tokenizer, the end-of-text token of each document
            included (it is certain after the line feed, so it adds a token but no nats).

    Returns:
        `nats_per_token` = nats / num_tokens and `bits_per_byte` = nats / (ln 2 * bytes). A model that sees a document
        from its beginning cannot do better in expectation; on a finite split it can by luck, by about 1 /
        sqrt(documents).

    Raises:
        ValueError: num_tokens < 1.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be at least 1; got {num_tokens}")
    return {
        "nats_per_token": split["nats"] / num_tokens,
        "bits_per_byte": split["nats"] / (math.log(2) * split["bytes"]),
    }


def write_stories(
    directory: str | Path,
    *,
    num_train: int,
    num_valid: int,
    seed: int,
    num_cloze: int = 500,
    config: StoryConfig = DEFAULT,
    num_processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write train.txt, valid.txt, cloze.jsonl and manifest.json; nothing is done when they are there already.

    Args:
        directory: created when missing.
        num_train: training documents.
        num_valid: validation documents to draw. The splits and the questions come from separate random streams; a
            validation story that is also a training story (practically impossible with the default words) is removed.
        seed: same seed, same bytes, on every platform and Python version, whatever the number of processes.
        num_cloze: questions, in equal shares per kind.
        config: words and weights.
        num_processes: processes that draw stories; above 1 the calling script needs its `if __name__ == "__main__":`.
        progress: called with (documents done, documents in all) now and then.

    Returns:
        The manifest: the request, and per split `documents`, `bytes` (UTF-8, without end-of-text tokens), `nats` (sum
        of -log p), `expected_nats` (sum of the entropies of the choices met), `sha256` (of the file), `removed`
        (documents).

    Raises:
        ValueError: a count below 1, or every validation story is also a training story.

    Complexity: a thousand stories or more per second and process; memory holds 16 bytes per training story.
    """
    counts = {"num_train": num_train, "num_valid": num_valid, "num_cloze": num_cloze, "num_processes": num_processes}
    if min(counts.values()) < 1:
        raise ValueError(f"write_stories needs counts of at least 1; got {counts}")
    directory = Path(directory)
    request = {
        "corpus": "stories",
        "grammar_version": GRAMMAR_VERSION,
        "config_sha256": config.fingerprint(),
        "seed": seed,
        "num_train": num_train,
        "num_valid": num_valid,
        "num_cloze": num_cloze,
    }
    files = {"train": "train.txt", "valid": "valid.txt", "cloze": "cloze.jsonl"}
    existing = matching_manifest(directory, request, files)
    if existing is not None:
        return existing
    report = _Progress(num_train + num_valid, progress)
    seen: set[bytes] = set()
    manifest = dict(request)
    for split, count in (("train", num_train), ("valid", num_valid)):
        stories = _draw(_jobs(split, seed, count, config), num_processes)
        manifest[split] = _write_split(directory / f"{split}.txt", stories, seen, report)
    manifest["cloze"] = _write_cloze(directory / "cloze.jsonl", f"stories cloze {seed}", num_cloze, config)
    write_json(directory / "manifest.json", manifest)
    return manifest


_Job = tuple[str, int, StoryConfig]  # seed, stories, configuration
_BLOCK = 500  # stories per job; part of what fixes the text for a seed


def _jobs(split: str, seed: int, count: int, config: StoryConfig) -> list[_Job]:
    """Cut a split into blocks, each with a random stream of its own (text seeds go through SHA-512)."""
    starts = range(0, count, _BLOCK)
    return [(f"stories {split} {seed} {start}", min(_BLOCK, count - start), config) for start in starts]


def _draw_block(job: _Job) -> list[Story]:
    """Draw the stories of one block."""
    seed, count, config = job
    rng = random.Random(seed)
    return [generate_story(rng, config=config) for _ in range(count)]


def _draw(jobs: list[_Job], num_processes: int) -> Iterator[Story]:
    """Draw all blocks, in order."""
    if num_processes == 1:
        yield from itertools.chain.from_iterable(map(_draw_block, jobs))
        return
    ignore_sigint = (signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends the workers, without their tracebacks
    with multiprocessing.get_context("spawn").Pool(num_processes, signal.signal, ignore_sigint) as pool:
        yield from itertools.chain.from_iterable(pool.imap(_draw_block, jobs))


class _Progress:
    """Counts documents and tells the caller about every thousandth."""

    def __init__(self, total: int, callback: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.callback = 0, total, callback

    def step(self) -> None:
        """Count one document."""
        self.done += 1
        if self.callback and (self.done % 1000 == 0 or self.done == self.total):
            self.callback(self.done, self.total)


def _write_split(path: Path, stories: Iterator[Story], seen: set[bytes], report: _Progress) -> dict[str, Any]:
    """Write the stories that are not in `seen`, then add them to it; return what the manifest says about the file."""
    kept: list[tuple[bytes, float, float]] = []
    removed = 0

    def documents() -> Iterator[str]:
        nonlocal removed
        for story in stories:
            digest = hashlib.sha256(story.text.encode()).digest()[:16]
            if digest in seen:
                removed += 1
            else:
                kept.append((digest, -story.log_probability, story.entropy))
                yield story.text
            report.step()

    written = write_documents(path, documents())
    if not kept:
        raise ValueError(
            f"all {removed} stories for {path.name} are training stories too; use more words in the config"
        )
    seen.update(digest for digest, _, _ in kept)
    nats = round(math.fsum(nats for _, nats, _ in kept), 6)
    expected_nats = round(math.fsum(entropy for _, _, entropy in kept), 6)
    return {**written, "nats": nats, "expected_nats": expected_nats, "removed": removed}


def _write_cloze(path: Path, seed: str, count: int, config: StoryConfig) -> dict[str, Any]:
    """Write the questions, one JSON object per line."""
    questions = cloze_questions(random.Random(seed), count=count, config=config)
    text = "".join(json.dumps(dataclasses.asdict(question)) + "\n" for question in questions)
    with atomic_write(path, "w") as file:
        file.write(text)
    return {"questions": count, "sha256": hashlib.sha256(text.encode()).hexdigest()}

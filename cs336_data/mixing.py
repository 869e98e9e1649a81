"""Mixing sources: how often each is read, and the one token file that training reads.

A budget of T tokens is shared by weights w_i that sum to 1. A source of n_i tokens is read e_i = w_i T / n_i times.
Repeats beyond about four epochs teach little (Muennighoff et al. 2023), so a source stops at `max_epochs`, and what it
cannot give is shared among the others by their weights, again and again until all fit (water-filling):

    taken_i = min(max_epochs n_i, lambda w_i),   lambda such that the sum is T

Weights n_i^(1/temperature) lie between proportional (1) and equal (infinity), as for languages of different size.

The file: whole documents in random order, each source's epochs spread over the whole file so that a repeat comes as
late as it can; a part of an epoch is a random choice of documents.

Source: Muennighoff et al., Scaling Data-Constrained Language Models (2023); Conneau and Lample, XLM (2019), for the
temperature; handout problem `filter_data`. Left out: weights that change during training. Read next:
`cs336_basics/data.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cs336_basics.data import END_OF_TEXT, open_tokens, read_manifest, write_token_blocks

PathLike = str | os.PathLike[str]

_BLOCK_TOKENS = 1 << 20


@dataclass(frozen=True)
class MixtureRow:
    """What the plan takes from one source."""

    name: str
    """the source"""
    available: int
    """tokens it has"""
    weight: float
    """share of the budget that was wished for"""
    taken: int
    """tokens it gives"""
    share: float
    """share of the budget that it gives"""
    epochs: float
    """how often it is read"""


def temperature_weights(available: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Weights n^(1/temperature), summing to 1.

    >>> temperature_weights({"en": 81, "sw": 1}, 2)
    {'en': 0.9, 'sw': 0.1}
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}; 1 is proportional to size")
    powers = {name: tokens ** (1 / temperature) for name, tokens in available.items()}
    return {name: power / sum(powers.values()) for name, power in powers.items()}


def plan_mixture(
    available: Mapping[str, int],
    weights: Mapping[str, float] | None = None,
    *,
    total_tokens: int | None = None,
    max_epochs: float = 4.0,
) -> list[MixtureRow]:
    """Decide how many tokens each source gives.

    Args:
        available: tokens of each source, at least 1.
        weights: wished shares in any unit; proportional to size by default. 0 leaves a source out.
        total_tokens: the budget; by default one epoch of the sources with a weight above 0.
        max_epochs: no source is read more often.

    Returns:
        A row for each source, in the order given.

    Raises:
        ValueError: unknown or negative weights, an empty source, or a budget above max_epochs of everything.
    """
    wished = dict(available if weights is None else weights)
    _check(available, wished, max_epochs)
    scale = sum(wished.values())
    limits = {name: max_epochs * tokens for name, tokens in available.items() if wished[name] > 0}
    budget = sum(available[name] for name in limits) if total_tokens is None else total_tokens
    if not 1 <= budget <= sum(limits.values()):
        unique = sum(available[name] for name in limits)
        raise ValueError(
            f"{budget:,} tokens cannot be taken from sources of {unique:,} tokens in at most {max_epochs:g} epochs "
            f"({sum(limits.values()):,.0f}); add sources, allow more epochs or take fewer"
        )
    taken = _fill(budget, {name: wished[name] for name in limits}, limits)
    return [
        MixtureRow(
            name, tokens, wished[name] / scale, round(taken.get(name, 0)), taken.get(name, 0) / budget,
            taken.get(name, 0) / tokens,
        )
        for name, tokens in available.items()
    ]  # fmt: skip


def _check(available: Mapping[str, int], weights: Mapping[str, float], max_epochs: float) -> None:
    if available.keys() != weights.keys():
        odd = sorted(available.keys() ^ weights.keys())
        raise ValueError(f"sources and weights must have the same names; {', '.join(odd)} is only in one of them")
    if any(tokens < 1 for tokens in available.values()):
        raise ValueError(f"every source needs at least 1 token; got {dict(available)}")
    if min(weights.values(), default=0) < 0 or not 0 < sum(weights.values()) < float("inf"):
        raise ValueError(f"weights must be at least 0 and one above 0; got {dict(weights)}")
    if not max_epochs > 0:
        raise ValueError(f"max_epochs must be positive; got {max_epochs}")


def _fill(budget: float, weights: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Share the budget by weight, with a limit for each."""
    taken: dict[str, float] = {}
    rest = dict(weights)
    while rest:
        scale = (budget - sum(taken.values())) / sum(rest.values())
        full = [name for name in rest if scale * rest[name] >= limits[name]]
        if not full:
            return taken | {name: scale * weight for name, weight in rest.items()}
        for name in full:
            taken[name] = limits[name]
            del rest[name]
    return taken


def count_tokens(sources: Mapping[str, Sequence[PathLike]]) -> dict[str, int]:
    """The tokens of each source's token files, from their manifests."""
    return {name: sum(read_manifest(path)["num_tokens"] for path in paths) for name, paths in sources.items()}


def mix(
    sources: Mapping[str, Sequence[PathLike]],
    plan: Sequence[MixtureRow],
    output: PathLike,
    *,
    end_of_text: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the mixture as one token file; return its manifest, with the plan in it.

    Args:
        sources: token files of each source, all of one tokenizer, each document ended by `end_of_text`.
        plan: from `plan_mixture`. A source gives whole documents, so up to one document more than planned.
        output: the token file, none of the sources.
        end_of_text: id that ends a document.
        seed: chooses the order and the part of an epoch.
        on_progress: called with (tokens written, tokens in all).

    Memory: some 60 bytes per document; the token files are mapped.

    Raises:
        ValueError: token files of different tokenizers, or that do not end with `end_of_text`.
        FileNotFoundError: a token file or its manifest is missing.
    """
    order = sorted({Path(path) for row in plan if row.taken for path in sources[row.name]})
    if Path(output).resolve() in {path.resolve() for path in order}:
        raise ValueError(f"{os.fspath(output)} is one of the sources; choose another name")
    manifest = _common_manifest(order)
    arrays = [open_tokens(path) for path in order]
    numbers = {path: number for number, path in enumerate(order)}
    random = np.random.default_rng(seed)
    picked = [
        _pick(_documents([numbers[Path(path)] for path in sources[row.name]], arrays, end_of_text), row, random)
        for row in plan
        if row.taken
    ]
    documents = np.concatenate([documents for documents, _ in picked])
    documents = documents[np.argsort(np.concatenate([position for _, position in picked]), kind="stable")]
    total = int(documents["length"].sum())

    def blocks() -> Iterator[npt.NDArray[Any]]:
        done, waiting, size = 0, [], 0
        for file, start, length in map(tuple, documents):
            waiting.append(arrays[file][start : start + length])
            size += length
            if size >= _BLOCK_TOKENS:
                yield np.concatenate(waiting)
                done, waiting, size = done + size, [], 0
                if on_progress:
                    on_progress(done, total)
        if waiting:
            yield np.concatenate(waiting)

    facts = {"documents": len(documents), "mixture": [asdict(row) for row in plan], "seed": seed}
    return write_token_blocks(
        output, blocks(), vocab_size=manifest["vocab_size"], dtype=manifest["dtype"], facts=lambda: facts
    )


def _common_manifest(paths: Sequence[Path]) -> dict[str, Any]:
    """The manifest of the first token file, if the others are of the same tokenizer."""
    manifests = [read_manifest(path) for path in paths]
    for key in ("vocab_size", "tokenizer_sha256"):
        if len({manifest.get(key) for manifest in manifests}) > 1:
            raise ValueError(f"the token files differ in {key}; they were made by different tokenizers")
    return manifests[0]


def _documents(files: Sequence[int], arrays: Sequence[npt.NDArray[Any]], end_of_text: int) -> npt.NDArray[Any]:
    """File, start and length of each document of a source."""
    parts = []
    for file in files:
        ends = np.flatnonzero(np.asarray(arrays[file]) == end_of_text) + 1
        if len(ends) == 0 or ends[-1] != len(arrays[file]):
            raise ValueError(
                f"a token file does not end with {END_OF_TEXT} (id {end_of_text}); write it with `cs336 data tokenize`"
            )
        part = np.empty(len(ends), dtype=[("file", "i4"), ("start", "i8"), ("length", "i8")])
        part["file"], part["start"], part["length"] = file, ends - np.diff(ends, prepend=0), np.diff(ends, prepend=0)
        parts.append(part)
    return np.concatenate(parts)


def _pick(
    documents: npt.NDArray[Any], row: MixtureRow, random: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """The documents that a source gives, some several times, and a position in [0, 1) for each."""
    left = row.taken
    epochs: list[npt.NDArray[Any]] = []
    positions: list[npt.NDArray[np.float64]] = []
    while left > 0:
        shuffled = documents[random.permutation(len(documents))]
        before = np.cumsum(shuffled["length"]) - shuffled["length"]
        epoch = shuffled[before < left]
        # Epoch k of e has the stretch [k/e, (k+1)/e); the last, which may be a part, ends at 1.
        begin, end = len(epochs) / row.epochs, min(1.0, (len(epochs) + 1) / row.epochs)
        positions.append(begin + (end - begin) * random.random(len(epoch)))
        epochs.append(epoch)
        left -= int(epoch["length"].sum())
    return np.concatenate(epochs), np.concatenate(positions)

"""IFEval: prompts with verifiable instructions, scored strictly and loosely.

    strict   the response as it is
    loose    one of eight versions of it: without its first line, last line or both, each with and without asterisks

Both are given per prompt (all its instructions kept) and per instruction. Reads the public input_data.jsonl ({key,
prompt, instruction_id_list, kwargs}); `generated_prompts` makes small ones in the world of the stories.

Source: Zhou et al. 2023. Read next: `instruction_checks.py`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cs336_alignment.evaluation.generation import Estimate, share
from cs336_alignment.evaluation.instruction_checks import CHECKS, is_followed
from cs336_alignment.jsonl import read_json_lines
from cs336_alignment.tasks.splits import between, choose, sample
from cs336_basics.corpora.stories import DEFAULT


@dataclass(frozen=True)
class InstructionPrompt:
    """A prompt and what can be verified about its answer."""

    prompt: str
    instructions: tuple[tuple[str, dict[str, Any]], ...]
    """name and arguments of each"""


@dataclass(frozen=True)
class FollowingResult:
    """How well instructions were kept; `kinds` per family, strictly."""

    prompts_strict: Estimate
    prompts_loose: Estimate
    instructions_strict: Estimate
    instructions_loose: Estimate
    kinds: dict[str, Estimate]


def read_ifeval(path: str | os.PathLike[str]) -> list[InstructionPrompt]:
    """The prompts of the public file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line without the fields, or with an unknown instruction; it is named.
    """
    prompts = []
    for number, record in read_json_lines(path, required=("prompt",)):
        names, arguments = record.get("instruction_id_list"), record.get("kwargs")
        if not isinstance(names, list) or not isinstance(arguments, list) or len(names) != len(arguments):
            raise ValueError(f"{path}, line {number}: needs equally long lists instruction_id_list and kwargs")
        unknown = [name for name in names if name not in CHECKS]
        if unknown:
            raise ValueError(f"{path}, line {number}: unknown instruction {unknown[0]!r}")
        prompts.append(InstructionPrompt(record["prompt"], tuple(zip(names, arguments, strict=True))))
    return prompts


def generated_prompts(*, count: int, seed: int) -> list[InstructionPrompt]:
    """Small prompts of two instructions each, for models that know the stories only."""
    rng = random.Random(f"ifeval {seed}")
    prompts = []
    for _ in range(count):
        name, place = choose(rng, DEFAULT.names), choose(rng, DEFAULT.places)
        number = between(rng, 2, 5)
        options: list[tuple[str, str, dict[str, Any]]] = [
            (f"Say {place}.", "keywords:existence", {"keywords": [place]}),
            (f"Do not say {place}.", "keywords:forbidden_words", {"forbidden_words": [place]}),
            (f"At least {number} sentences.", "length_constraints:number_sentences",
             {"num_sentences": number, "relation": "at least"}),
            (f"Less than {10 * number} words.", "length_constraints:number_words",
             {"num_words": 10 * number, "relation": "less than"}),
            ("No commas.", "punctuation:no_comma", {}),
            ("End with: That was all.", "startend:end_checker", {"end_phrase": "That was all."}),
        ]  # fmt: skip
        first, second = sample(rng, options, 2)
        while {first[1], second[1]} == {"keywords:existence", "keywords:forbidden_words"}:
            first, second = sample(rng, options, 2)
        prompt = f"Tell a story about {name}. {first[0]} {second[0]}\n"
        prompts.append(InstructionPrompt(prompt, (first[1:], second[1:])))
    return prompts


def loose_versions(response: str) -> list[str]:
    """The response, and versions without the frills that chat models put around answers."""
    lines = response.split("\n")
    cuts = [lines, lines[1:], lines[:-1], lines[1:-1]]
    texts = ["\n".join(cut).strip() for cut in cuts]
    return [version for text in texts for version in (text, text.replace("*", ""))]


def summarise_following(prompts: Sequence[InstructionPrompt], responses: Sequence[str]) -> FollowingResult:
    """Score responses.

    Raises:
        ValueError: not one response per prompt, or no prompts.
    """
    if len(prompts) != len(responses) or not prompts:
        raise ValueError(f"need one response per prompt; got {len(responses)} for {len(prompts)}")
    strict, loose = [], []
    kinds: dict[str, list[bool]] = {}
    for prompt, response in zip(prompts, responses, strict=True):
        strict.append([is_followed(name, arguments, response) for name, arguments in prompt.instructions])
        versions = loose_versions(response)
        loose.append([
            any(is_followed(name, arguments, version) for version in versions)
            for name, arguments in prompt.instructions
        ])  # fmt: skip
        for (name, _), kept in zip(prompt.instructions, strict[-1], strict=True):
            kinds.setdefault(name.split(":")[0], []).append(kept)
    return FollowingResult(
        prompts_strict=share([all(kept) for kept in strict]),
        prompts_loose=share([all(kept) for kept in loose]),
        instructions_strict=share([kept for one in strict for kept in one]),
        instructions_loose=share([kept for one in loose for kept in one]),
        kinds={kind: share(kept) for kind, kept in sorted(kinds.items())},
    )

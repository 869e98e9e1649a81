"""The steps a pipeline is made of, by name: what stands in a configuration file becomes filters and transforms.

    language   keep some languages           quality   keep what a classifier finds well written
    nsfw       drop pornography              rules     drop what breaks a named rule set (`rules/`)
    toxic      drop hostile speech           pii       mask e-mail addresses, phone numbers and IP addresses
    function   a filter of one's own, "module:name", importable where the workers run

A new kind of step is one more line in `BUILDERS`. Handout: `filter_data`. Read next: `file_task.py`.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cs336_data.document import Transform


@dataclass(frozen=True)
class StepConfig:
    """A step as the configuration names it."""

    name: str
    """one of language, nsfw, toxic, rules, quality, pii, function"""
    options: dict[str, Any] = field(default_factory=dict)
    """arguments of the step, such as { minimum = 0.65 }"""

    def __post_init__(self) -> None:
        if self.name not in BUILDERS:
            near = difflib.get_close_matches(self.name, BUILDERS, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(BUILDERS)}"
            raise ValueError(f"unknown step {self.name!r}; {advice}")


@dataclass(frozen=True)
class Step:
    """A step ready for work.

    Attributes:
        label: its name in funnels; a rule set's own name for rules.
        kind: "filter" gives a reason or None, "transform" gives a document.
        apply: the function.
        score: metadata key of the number it judges by, "" if there is none.
    """

    label: str
    kind: Literal["filter", "transform"]
    apply: Callable[..., Any]
    score: str = ""


def build_steps(configs: Sequence[StepConfig]) -> list[Step]:
    """Make the steps; models are loaded when the first document comes.

    Raises:
        ValueError: two steps with one label, or what a step says of its options.
        TypeError: an option that the step does not have.
    """
    steps = [_build(config) for config in configs]
    labels = [step.label for step in steps]
    if len(set(labels)) < len(labels):
        raise ValueError(f"each step may stand once; got {', '.join(labels)}")
    return steps


def _build(config: StepConfig) -> Step:
    builder = BUILDERS[config.name]
    try:
        inspect.signature(builder).bind(**config.options)
    except TypeError as error:
        raise TypeError(f"step {config.name!r}: {error}; options are {inspect.signature(builder)}") from error
    return builder(**config.options)


def _language(languages: Sequence[str] = ("en",), minimum: float = 0.65) -> Step:
    from cs336_data.language import LanguageFilter

    return Step("language", "filter", LanguageFilter(languages, minimum=minimum), "language_score")


def _nsfw(maximum: float = 0.9) -> Step:
    from cs336_data.toxicity import HarmFilter

    return Step("nsfw", "filter", HarmFilter("nsfw", maximum=maximum), "nsfw_score")


def _toxic(maximum: float = 0.9) -> Step:
    from cs336_data.toxicity import HarmFilter

    return Step("toxic", "filter", HarmFilter("toxic", maximum=maximum), "toxic_score")


def _rules(set: str) -> Step:
    from cs336_data.rules.rule_sets import rule_filter

    return Step(set, "filter", rule_filter(set))


def _quality(minimum: float = 0.5) -> Step:
    from cs336_data.quality_classifier import QualityFilter

    return Step("quality", "filter", QualityFilter(minimum=minimum), "quality_score")


def _pii() -> Step:
    from cs336_data.pii import mask_document

    mask: Transform = mask_document
    return Step("pii", "transform", mask)


def _function(path: str) -> Step:
    module, colon, name = path.partition(":")
    if not (module and colon and name):
        raise ValueError(f"the path of a function looks like my_filters:too_short; got {path!r}")
    return Step(name, "filter", getattr(importlib.import_module(module), name))


BUILDERS: dict[str, Callable[..., Step]] = {
    "language": _language, "nsfw": _nsfw, "toxic": _toxic, "rules": _rules, "quality": _quality, "pii": _pii,
    "function": _function,
}  # fmt: skip
"""name in the configuration -> function of the step's options"""

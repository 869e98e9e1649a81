"""Is this answer the right one? Numbers exactly, expressions symbolically, everything else as text.

    1. the same text, once spaces, dollar and percent signs, units and LaTeX's ways of writing one thing are unified
    2. two numbers: compared as fractions of whole numbers, exactly; a fraction counts only in lowest terms
    3. tuples and intervals: part by part, with the same brackets
    4. expressions with at most two letters: sympy, in a process with limits of time and memory (`symbolic.py`)

The rules of MATH graders: 1/2 is 0.5, 7 3/4 is 7.75 and 50% is 50, but 2/4 is not 1/2, and a sentence is no answer.
Source: the conventions of Hendrycks et al. 2021 (2103.03874) and Lightman et al. 2023 (2305.20050), written anew. Left
out: equations, matrices, units that need conversion. Read next: `rewards.py`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import gcd

MAX_LENGTH = 300
"""longer answers are compared as texts only"""

_DROPPED = ("\\left", "\\right", "\\!", "\\,", "\\;", "\\ ", "\\$", "$", "\\%", "%", "^{\\circ}", "^\\circ", "\\(", "\\)",
            "\\mbox", "\\displaystyle")  # fmt: skip
_UNITS = ("degrees?|cms?|centimeters?|kms?|kilometers?|meters?|miles?|inch(?:es)?|feet|foot|yards?|seconds?|minutes?"
          "|hours?|days?|weeks?|months?|years?|dollars?|cents?|points?|units?")  # fmt: skip
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_DECIMAL = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[-+]?\d{1,2})?")
_FRACTION = re.compile(r"([-+]?)(?:(\d+) )?(?:(\d+)/(\d+)|\\frac\{(\d+)\}\{(\d+)\})")
_BRACKETS = {"(": ")", "[": "]"}


def grade_answer(answer: str, truth: str, *, symbolic: bool = True) -> bool:
    """Whether `answer` says the same as `truth`; see the module docstring.

    Args:
        answer: what the model gave as its answer, without the tags or the box around it.
        truth: the reference answer.
        symbolic: ask sympy where texts and numbers do not decide.
    """
    if answer.strip() == truth.strip():
        return bool(truth.strip())
    if max(len(answer), len(truth)) > MAX_LENGTH:
        return False
    given, wanted = normalize_answer(answer), normalize_answer(truth)
    if not given or not wanted:
        return False
    return given == wanted or _same_value(given, wanted, symbolic)


def _same_value(given: str, wanted: str, symbolic: bool) -> bool:
    """Numbers, then tuples, then expressions."""
    numbers = parse_number(given), parse_number(wanted)
    if None not in numbers:
        return numbers[0] == numbers[1] and _is_reduced(given) and _is_reduced(wanted)
    parts = split_tuple(given), split_tuple(wanted)
    if len(parts[0]) > 1 or len(parts[1]) > 1:
        same_frame = (given[0] in _BRACKETS, given[0], given[-1]) == (wanted[0] in _BRACKETS, wanted[0], wanted[-1])
        bare = given[0] not in _BRACKETS and wanted[0] not in _BRACKETS
        return (same_frame or bare) and len(parts[0]) == len(parts[1]) and all(
            a == b or _same_value(a, b, symbolic) for a, b in zip(*parts, strict=True)
        )  # fmt: skip
    if (numbers[0] is None) != (numbers[1] is None) and 1 in (n.denominator for n in numbers if n is not None):
        return False  # a whole number is to be written as one
    if not symbolic:
        return False
    from cs336_alignment.symbolic import equal_expressions

    return equal_expressions(given, wanted)


def normalize_answer(text: str) -> str:
    """One way of writing for what can be written in several; lower case, single spaces, none around operators."""
    text = " ".join(text.split()).strip(" .").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    for mark in _DROPPED:
        text = text.replace(mark, "")
    text = re.sub(r"\\(?:text|textbf|mathrm)\{([^{}]*)\}", r" \1 ", text).lower()
    text = re.sub(r"\s*\b(?:or|and)\b\s*", ",", text)
    text = re.sub(r"^\s*[a-z]{1,2}\s*=\s*", "", text)
    text = re.sub(rf"(?<=[\d}}])\s*(?:{_UNITS})(?:\^?\d)?\s*$", "", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text) if not text.strip().startswith(("(", "[")) else text
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", text)
    text = re.sub(r"\s*([-+*/=,(){}\[\]^])\s*", r"\1", text.strip())
    return _spell_out(text)


def _spell_out(text: str) -> str:
    """2.5 million as 2500000."""
    match = re.fullmatch(r"([-+]?[\d.]+)\s*(thousand|million|billion|trillion)", text)
    if match is None or _DECIMAL.fullmatch(match[1]) is None:
        return text
    value = Fraction(match[1]) * 10 ** _POWERS[match[2]]
    return str(value) if value.denominator == 1 else text


def parse_number(text: str) -> Fraction | None:
    """A whole number, decimal, fraction or mixed number as an exact fraction; None for anything else.

    >>> parse_number("7 3/4")
    Fraction(31, 4)
    """
    if not text.isascii() or len(text) > 100:
        return None
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
    if bottom == 0:
        return None
    value = int(match[2] or 0) + Fraction(top, bottom)
    return -value if match[1] == "-" else value


def _is_reduced(text: str) -> bool:
    """False for a fraction that can be cancelled."""
    match = _FRACTION.fullmatch(text)
    if match is None:
        return True
    top, bottom = int(match[3] or match[5]), int(match[4] or match[6])
    return bottom > 1 and gcd(top, bottom) == 1


def split_tuple(text: str) -> list[str]:
    """The parts between the commas of a tuple, an interval or a bare list; one part if there is none."""
    if text and text[0] in _BRACKETS and text[-1] in _BRACKETS.values() and "," in text:
        text = text[1:-1]
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]

"""Equality of two expressions by sympy: simplify(a - b) == 0, in a confined process.

Only what can be an expression gets there: digits, + - * / ^ ( ) . and sqrt, pi, fractions, and at most two different
single letters; powers of one digit. sympy's parser runs Python code, so the text is rebuilt from these tokens and
anything else is refused before; what remains can at worst be slow, and the process has two seconds.

`math_verify` (pip install math-verify) accepts more (sets, equations, intervals); `verify_with_math_verify` asks it in a
process as well. Read next: `symbolic_worker.py`.
"""

from __future__ import annotations

import atexit
import importlib.util
import re
from functools import cache
from pathlib import Path

from cs336_alignment.confined_process import ConfinedProcess

SECONDS, MEGABYTES = 2.0, 1024
_TOKEN = re.compile(r"\\frac|\\sqrt|\\pi|\\cdot|\\times|\\div|sqrt|pi|\d+(?:\.\d+)?|\.\d+|[a-z]|\*\*|[-+*/^(){}]| ")
_WORDS = {"\\sqrt": "sqrt", "\\pi": "pi", "\\cdot": "*", "\\times": "*", "\\div": "/", "^": "**", "{": "(", "}": ")"}


def equal_expressions(first: str, second: str) -> bool:
    """Whether the two are expressions of equal value; False where one is no expression or the time is over."""
    texts = [python_expression(text) for text in (first, second)]
    if None in texts:
        return False
    answer = _worker("symbolic_worker.py").ask({"first": texts[0], "second": texts[1]})
    return bool(answer and answer["equal"])


def python_expression(text: str) -> str | None:
    r"""LaTeX or plain mathematics as a Python expression of known tokens; None if it has others.

    >>> python_expression(r"2\sqrt{2}")
    '2 sqrt ( 2 )'
    """
    if re.search(r"\^[{(]|\^\d\d|\*\*\s*[({]|\*\*\s*\d\d", text):
        return None
    divided = _with_quotients(text)
    tokens = _TOKEN.findall(divided) if divided is not None else []
    if divided is None or "".join(tokens) != divided:
        return None
    letters = {token for token in tokens if len(token) == 1 and token.isalpha()}
    if len(letters) > 2:
        return None
    return " ".join(_WORDS.get(token, token) for token in tokens if token != " ")


def _with_quotients(text: str) -> str | None:
    r"""\frac{a}{b} as ((a)/(b)), from the inside out; None if one is malformed."""
    pattern = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
    braces = re.compile(r"\\sqrt\{([^{}]*)\}")
    while "\\frac" in text:
        shorter = pattern.sub(r"((\1)/(\2))", braces.sub(r"\\sqrt(\1)", text))
        if shorter == text:
            return None
        text = shorter
    return text


def verify_with_math_verify(answer: str, truth: str) -> bool:
    """What math_verify says of two LaTeX answers; False when its time is over.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError("math_verify is not installed; pip install math-verify", name="math-verify")
    reply = _worker("math_verify_worker.py").ask({"answer": answer, "truth": truth})
    return bool(reply and reply["equal"])


@cache
def _worker(script: str) -> ConfinedProcess:
    """One process for all questions of a kind; started at the first."""
    process = ConfinedProcess([str(Path(__file__).with_name(script)), str(MEGABYTES)], seconds=SECONDS)
    atexit.register(process.close)
    return process

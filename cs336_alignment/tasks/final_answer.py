"""`#### 42`: how a response marks its answer, in GSM8K and in our own tasks.

    format_reward = there is a marked answer      answer_reward = reward = it is right

Left out: answers in tags or boxes (`rewards.py`). Read next: `splits.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

MARK = "####"
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:/0*[1-9]\d*)?")


def final_answer(response: str) -> str | None:
    """The line behind the last `####`, stripped; None without a mark or with nothing behind it.

    >>> final_answer("48/2 = 24\\n#### 24")
    '24'
    """
    _, mark, rest = response.rpartition(MARK)
    answer = rest.strip().split("\n")[0].strip() if mark else ""
    return answer or None


def as_number(text: str) -> Fraction | None:
    """A number as GSM8K writes it ("$1,200", "-3.50", "18."), exactly; None for anything else.

    >>> as_number("$1,200.50")
    Fraction(2401, 2)
    """
    plain = text.strip().replace(",", "").replace("$", "").rstrip("%.").strip()
    if len(plain) > 100 or not plain.isascii() or not _NUMBER.fullmatch(plain):
        return None
    top, _, bottom = plain.partition("/")
    return Fraction(top) / Fraction(bottom or 1)


def same_number(answer: str, truth: str) -> bool:
    """Whether both are numbers, and equal ones."""
    found, wanted = as_number(answer), as_number(truth)
    return found is not None and found == wanted


def judge(response: str, truth: str, is_right: Callable[[str, str], bool]) -> dict[str, float]:
    """The three rewards of a response whose answer stands behind `####`.

    Args:
        response: what the model wrote.
        truth: the right answer.
        is_right: compares (answer, truth).
    """
    answer = final_answer(response)
    right = float(answer is not None and is_right(answer, truth))
    return {"format_reward": float(answer is not None), "answer_reward": right, "reward": right}

"""What a model's free text says: a letter of a multiple-choice question, or a number.

Both parsers are strict: rather no answer than one that the text does not give. Handout (supplement): mmlu_baseline,
gsm8k_baseline. Read next: `grading.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NAMED = re.compile(r"answer\s+is\s*:?\s*[\s*_`\"'(\[]*([A-D])(?![A-Za-z0-9'])")
_LEADING = re.compile(r"\s*[*_`\"'(\[]*([A-D])(?:[)\].:,*_`\"']|\s*$|\s*\n)")
_NUMBER = re.compile(r"(?<!\d)-?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)-?\$?\.\d+|\d+")


def parse_mmlu_response(mmlu_example: Mapping[str, Any], model_output: str) -> str | None:
    """The letter that the output names, or None.

    It is what follows "answer is" (perhaps in brackets or markdown), or a letter that the output begins with and that
    a punctuation mark or the end follows. Options' texts are not searched for: "10" would match in "100".

    Args:
        mmlu_example: the question; unused, part of the course's signature.
        model_output: what the model wrote.
    """
    found = _NAMED.search(model_output) or _LEADING.match(model_output)
    return found.group(1) if found else None


def parse_gsm8k_response(model_output: str) -> str | None:
    """The last number of the output as a plain decimal text ("1,234" gives "1234"), or None.

    A minus sign belongs to the number unless a digit stands before it, as in "24-12".
    """
    numbers = _NUMBER.findall(model_output)
    return numbers[-1].replace("$", "").replace(",", "") if numbers else None

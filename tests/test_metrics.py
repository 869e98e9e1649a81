"""Supplement problems mmlu_baseline and gsm8k_baseline: reading an answer out of free text."""

from __future__ import annotations

import pytest

EXAMPLE = {
    "subject": "virology", "question": "How many human polyomaviruses are known at present?",
    "options": ["100", "1", "10", "unknown"], "answer": "A",
}  # fmt: skip


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("The correct answer is B. There is only one.", "B"),
        ("The correct answer is (D).", "D"),
        ("The correct answer is **C**", "C"),
        ("The answer is: A", "A"),
        ("B", "B"),
        ("C. 10", "C"),
        ("(A) because", "A"),
        ("The correct answer is 10000 polyomaviruses.", None),
        ("The correct answer is Borrelia.", None),
        ("A virus has many forms.", None),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_parse_mmlu_response(adapters, output, letter):
    found = adapters.run_parse_mmlu_response(mmlu_example=EXAMPLE, model_output=output)
    assert (found or None) == letter, f"{output!r}"


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("Natalia sold 48/2 = 24 clips in May. She sold 48+24 = 72 clips altogether.", "72"),
        ("The answer is 72.", "72"),
        ("It costs $1,234.50 in all", "1234.50"),
        ("a loss of -5 dollars", "-5"),
        ("24-12", "12"),
        ("from 3,000 to 4,000,000", "4000000"),
        ("Natalia sold some clips.", None),
        ("", None),
    ],
)
def test_parse_gsm8k_response(adapters, output, number):
    found = adapters.run_parse_gsm8k_response(model_output=output)
    if number is None:
        assert not found, f"{output!r} has no number; got {found!r}"
    else:
        assert float(found) == float(number), f"{output!r}: the last number, without its commas"

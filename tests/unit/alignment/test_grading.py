"""The graders: an agreement table, both reward contracts, and what hostile answers cannot do."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest

from cs336_alignment.grading import grade_answer, normalize_answer, parse_number, split_tuple
from cs336_alignment.rewards import last_boxed, question_only_reward_fn, r1_zero_reward_fn
from cs336_alignment.symbolic import python_expression, verify_with_math_verify

AGREEMENT = [
    ("1/2", "0.5", True),
    ("72.0", "72", True),
    ("$72", "72", True),
    ("1,000", "1000", True),
    ("50%", "50", True),
    ("x=5", "5", True),
    ("x+1", "1+x", True),
    ("(1,2)", "(1, 2)", True),
    (r"\sqrt{8}", r"2\sqrt{2}", True),
    ("7 3/4", "7.75", True),
    ("2/4", "1/2", False),
    ("72 clips", "72", False),
    ("Together that makes 72 of them", "72", False),
    ("", "72", False),
    (" 72 ", "72", True),
    ("72.", "72", True),
    ("-.5", "-1/2", True),
    ("1e3", "1000", True),
    ("2 million", "2000000", True),
    ("3 or 4", "3, 4", True),
    ("100 cm", "100", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"\dfrac12", "0.5", True),
    (r"\left(1, \frac{1}{2}\right)", "(1, 0.5)", True),
    ("[1,2)", "[1,2]", False),
    ("(1,2)", "(2,1)", False),
    ("(1,2)", "(1,2,3)", False),
    ("4/2", "2", False),
    ("31/4", "7.75", True),
    ("1/0", "0", False),
    ("12,34", "1234", False),
    ("(x+1)^2", "x^2+2x+1", True),
    ("x+y+z", "z+y+x", False),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
    ("x+1", "x+2", False),
]


@pytest.mark.parametrize(("answer", "truth", "right"), AGREEMENT)
def test_agreement_table(answer, truth, right):
    assert grade_answer(answer, truth) is right


@pytest.mark.parametrize(
    "answer",
    [
        "9**9**9", "9^9^9^9", "(((((((((1+x)^9)^9)^9)^9)^9)^9)^9)^9", "__import__('os').system('true')", "{" * 250,
        "(" * 250, "\\frac{" * 40, "\\sqrt" * 60, "x" * 100_000, "9" * 100_000, "\\boxed{" * 10, "\x00", "a=b=c",
        "lambda:0", "[0]*9", "1/" * 80,
    ],
)  # fmt: skip
def test_hostile_answers_are_wrong_and_soon(answer):
    started = time.monotonic()
    assert not grade_answer(answer, "1+x")
    assert time.monotonic() - started < 90, "a worker that starts again on a busy machine, not an endless power"


def test_expressions_are_rebuilt_from_known_tokens():
    assert python_expression(r"2\sqrt{2}") == "2 sqrt ( 2 )"
    assert python_expression("x^2") == "x ** 2"
    for text in ("import", "os.x", "x^{10}", "x^(y)", "x**12", "abc", "x_1", "f'", "x;y", "\u03c0"):
        assert python_expression(text) is None, text


@pytest.mark.parametrize(
    ("text", "value"),
    [("12", 12), ("-3.25", Fraction(-13, 4)), ("7 3/4", Fraction(31, 4)), ("-1 1/2", Fraction(-3, 2)), ("x", None),
     ("1/0", None), ("9" * 5000, None), ("\u0663", None)],
)  # fmt: skip
def test_parse_number(text, value):
    assert parse_number(text) == value


def test_split_tuple_and_normalize():
    assert split_tuple("(1,(2,3),4)") == ["1", "(2,3)", "4"]
    assert normalize_answer(r"\left( 1 , 2 \right)") == "(1,2)"
    assert normalize_answer("$1,234,567$") == "1234567"


R1 = "so 70 + 2 </think> <answer>{}</answer>"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (R1.format("72"), (1, 1)),
        (R1.format("71"), (1, 0)),
        (R1.format(r"\boxed{72}"), (1, 1)),
        (R1.format(r"\boxed{72"), (1, 0)),
        (R1.format(""), (1, 0)),
        ("x</think><answer>72</answer>", (0, 0)),
        ("x</think>  <answer>72</answer>", (0, 0)),
        (R1.format("72") + " and more", (1, 0)),
        (R1.format("71") + " no, <answer>72</answer>", (1, 1)),
        ("</think> <answer>72", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_r1_zero_contract(response, expected):
    score = r1_zero_reward_fn(response, "72")
    assert (score["format_reward"], score["answer_reward"], score["reward"]) == (*expected, expected[1])


@pytest.mark.parametrize("truth", [72, 72.0, ["1", "72"], r"the answer is \boxed{72}"])
def test_kinds_of_ground_truth(truth):
    assert r1_zero_reward_fn(R1.format("72"), truth)["reward"] == 1


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"so \boxed{72}", (1, 1)),
        (r"\boxed{1}, no, \boxed{72}", (1, 1)),
        (r"\boxed{\frac{1}{2}}", (1, 0)),
        (r"\boxed 72", (0, 0)),
        (r"\fbox{72}", (0, 0)),
        (r"\boxed{72", (0, 0)),
        ("72", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_question_only_contract(response, expected):
    score = question_only_reward_fn(response, "72")
    assert (score["format_reward"], score["answer_reward"], score["reward"]) == (*expected, expected[1])


def test_last_boxed_keeps_inner_braces():
    assert last_boxed(r"\boxed{\frac{1}{2}} and \boxed {a{b}c}") == "a{b}c"


def test_math_verify_is_an_extra():
    pytest.importorskip("math_verify")
    assert verify_with_math_verify(r"\{1,2\}", r"\{2,1\}")
    assert not verify_with_math_verify("1", "2")

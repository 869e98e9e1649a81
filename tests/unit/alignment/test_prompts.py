"""Prompts and their placeholders."""

from __future__ import annotations

import pytest

from cs336_alignment.prompts import fill_prompt, load_prompt, placeholders, prompt_names
from cs336_alignment.text_tokenizer import TextTokenizer

NAMES = {"r1_zero": {"question"}, "r1_zero_three_shot_gsm8k": {"question"}, "question_only": {"question"},
         "alpaca_sft": {"instruction", "response"}, "zero_shot_system_prompt": {"instruction"}, "gsm8k": {"question"},
         "mmlu": {"subject", "question", "a", "b", "c", "d"}}  # fmt: skip


def test_all_prompts_have_their_placeholders():
    assert {name: placeholders(load_prompt(name)) for name in prompt_names()} == NAMES


def test_ends_of_the_prompts():
    """No final newline: the model writes on right behind the last character."""
    assert load_prompt("r1_zero").endswith("Assistant: <think>")
    assert load_prompt("alpaca_sft").endswith("### Response:\n{response}")
    assert load_prompt("zero_shot_system_prompt").endswith("# Answer:\n```")
    assert fill_prompt(load_prompt("question_only"), question="1 + 1?").endswith(r"\boxed{}.")


def test_values_may_hold_braces():
    assert fill_prompt("Q: {question}", question=r"\frac{1}{2} {x}") == r"Q: \frac{1}{2} {x}"


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("{question} {answer}", {"question": "x"}, "no value for answer"),
        ("{question}", {"question": "x", "other": "y"}, "no placeholder for other"),
        ("{0}", {}, "which is no name"),
        ("a { b", {}, "double the braces"),
    ],
)
def test_bad_prompts(template, values, message):
    with pytest.raises(ValueError, match=message):
        fill_prompt(template, **values)


def test_own_prompt_file(tmp_path):
    path = tmp_path / "mine.prompt"
    path.write_text("Say {question}\n")
    assert load_prompt(str(path)) == "Say {question}"
    with pytest.raises(FileNotFoundError, match="no prompt 'r2_zero'"):
        load_prompt("r2_zero")


def test_things_that_are_no_tokenizer():
    with pytest.raises(TypeError, match="needs encode and decode"):
        TextTokenizer(object())

    class WithoutEnd:
        eos_token_id = None
        encode = decode = None

    with pytest.raises(ValueError, match="no end-of-text token"):
        TextTokenizer(WithoutEnd())

"""The prompts of the handouts, one file each, and how their placeholders are filled.

    r1_zero                     think, then answer within tags; ends in "<think>"; stop at "</answer>", kept in the text
    r1_zero_three_shot_gsm8k    the same after three solved word problems
    question_only               the question and a request for \\boxed{}; no stop text
    alpaca_sft                  instruction and response under headings
    zero_shot_system_prompt     a list of conversations; stop at "# Query:"
    mmlu, gsm8k                 the task prompts that the last two wrap

A prompt belongs to one reward function and one stop text (`rewards.py`); a wrong pair gives reward 0 without a word.
Placeholders are those of `str.format`; literal braces are doubled in the files. Read next: `../rewards.py`.
"""

from __future__ import annotations

import string
from pathlib import Path

FOLDER = Path(__file__).parent


def prompt_names() -> list[str]:
    """Names that `load_prompt` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.prompt"))


def load_prompt(name: str) -> str:
    """A template by name, or from a file of one's own; a final newline is dropped.

    Raises:
        FileNotFoundError: neither.
    """
    for path in (FOLDER / f"{name}.prompt", Path(name)):
        if path.is_file():
            return path.read_text(encoding="utf-8").removesuffix("\n")
    raise FileNotFoundError(f"no prompt {name!r}; give the path of a file or one of {', '.join(prompt_names())}")


def placeholders(template: str) -> set[str]:
    """Names between braces.

    Raises:
        ValueError: a brace that is neither doubled nor part of a placeholder, or a placeholder that is not a name.
    """
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"the prompt is no template: {error}; double the braces that are meant as such") from error
    odd = sorted(name for name in names if not name.isidentifier())
    if odd:
        raise ValueError(f"the prompt has the placeholder {{{odd[0]}}}, which is no name; double literal braces")
    return names


def fill_prompt(template: str, **values: str) -> str:
    """The template with its placeholders filled; braces within the values stay as they are.

    Raises:
        ValueError: a placeholder without value, or a value without placeholder.
    """
    names = placeholders(template)
    if names != set(values):
        missing, unknown = sorted(names - set(values)), sorted(set(values) - names)
        raise ValueError(
            f"the prompt has the placeholders {sorted(names)}; "
            + "; ".join(f"{what} {', '.join(found)}" for what, found in
                        (("no value for", missing), ("no placeholder for", unknown)) if found)
        )  # fmt: skip
    return template.format(**values)

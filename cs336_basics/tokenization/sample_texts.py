"""Texts on which tokenizers are compared: kinds of text, and one story in several languages.

    kinds        news, math (LaTeX) and science (sub- and superscripts), written for this purpose; code from the Python
                 library; korean, from the languages
    languages    the same sentences in each, so that tokens can be compared, not only bytes per token

Left out: a fair sample of anything. A few hundred words show the order of magnitude, and the intervals say how roughly.
Read next: `comparison.py`.
"""

from __future__ import annotations

import importlib.resources
import tomllib

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.corpora.stdlib_source import stdlib_folder

_CODE_FILE = "textwrap.py"


def sample_kinds() -> dict[str, str]:
    """Name -> text of one kind; code is left out where Python has come without its sources."""
    texts, code_path = _texts(), stdlib_folder() / _CODE_FILE
    code = {"code": code_path.read_text(encoding="utf-8")} if code_path.is_file() else {}
    kinds = {"news": texts["kinds"]["news"], "korean": texts["languages"]["korean"], **code}
    return kinds | {name: texts["kinds"][name] for name in ("math", "science")}


def sample_languages() -> dict[str, str]:
    """Language -> the same few sentences; English first."""
    return _texts()["languages"]


def read_sample(path: str, *, max_bytes: int) -> str:
    """The beginning of a UTF-8 text file, its documents parted by line ends instead of <|endoftext|>.

    Raises:
        ValueError: not UTF-8, or nothing in it.
    """
    with open(path, "rb") as file:
        data = file.read(max_bytes)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - 3 or error.reason != "unexpected end of data":  # else the cut split a character
            raise ValueError(f"{path} is not UTF-8 at byte {error.start}; convert it first") from error
        text = data[: error.start].decode("utf-8")
    text = text.replace(END_OF_TEXT, "\n")
    if not text:
        raise ValueError(f"{path} is empty; there is nothing to measure")
    return text


def _texts() -> dict[str, dict[str, str]]:
    """The shipped texts."""
    data = importlib.resources.files("cs336_basics.tokenization").joinpath("sample_texts.toml").read_bytes()
    return tomllib.loads(data.decode("utf-8"))

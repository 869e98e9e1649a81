"""Translations: gettext catalogues, `i18n/LANGUAGE/NAME.po`, one per lecture and `ui.po` for the page itself.

The key of a translation is the text as the author wrote it, with its `{placeholders}`; what has no translation shows in
English. `extract` finds the texts of a lecture in its source and brings the catalogue up to date: new texts are added
empty, changed ones keep their old translation marked as fuzzy (not shown until somebody looks at it), and lost ones are
kept as obsolete.

Read next: `../pages/strings.py`.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parent
NAMES = {"en": "English", "zh": "\u4e2d\u6587"}
# Content calls: which of their arguments, by position and by name, are texts.
TEXTS = {
    "text": ((0,), ()), "note": ((0,), ()), "quiz": ((0, 1), ("question", "answer")), "exercise": ((0,), ("task",)),
    "plot": ((), ("alt",)), "image": ((), ("alt",)), "graph": ((), ("alt",)),
}  # fmt: skip


def languages(name: str) -> list[str]:
    """The languages that have a catalogue of a lecture, English first."""
    return ["en", *sorted(path.parent.name for path in FOLDER.glob(f"*/{name}.po"))]


def catalogue(language: str, name: str) -> dict[str, str]:
    """The finished translations of a catalogue; empty without one.

    Raises:
        ImportError: polib is not installed.
        ValueError: the file is no catalogue.
    """
    path = FOLDER / language / f"{name}.po"
    if language == "en" or not path.is_file():
        return {}
    return {entry.msgid: entry.msgstr for entry in _read(path).translated_entries()}


def translator(language: str, name: str) -> Callable[[str], str]:
    """A function from a text to its translation, or the text itself."""
    known = catalogue(language, name)
    return lambda message: known.get(message, message)


def extract(source: str) -> list[tuple[int, str]]:
    """(line, text) of all texts that a lecture says, in order; texts computed when it runs are not among them."""
    found: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TEXTS):
            continue
        positions, names = TEXTS[node.func.id]
        if any(k.arg == "verbatim" and isinstance(k.value, ast.Constant) and k.value.value for k in node.keywords):
            continue
        values = [node.args[i] for i in positions if i < len(node.args)] + [
            k.value for k in node.keywords if k.arg in names
        ]
        for value in values:
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value.strip():
                text = value.value
                text = inspect.cleandoc(text) if "\n" in text or node.func.id != "text" else text
                found.append((value.lineno, value.col_offset, text))
    return [(line, text) for line, _, text in sorted(found)]


def update(path: Path, messages: list[tuple[int, str]], *, file: str) -> tuple[int, int]:
    """Bring a catalogue up to date; returns (texts in all, texts without a finished translation).

    Args:
        path: of the catalogue, which is made if it is not there.
        messages: (line, text), as from `extract`.
        file: the name of the source, for the comments of the catalogue.
    """
    import polib

    from cs336_basics.runs.atomic import atomic_write

    old = {entry.msgid: entry for entry in (_read(path) if path.is_file() else [])}
    new = polib.POFile(wrapwidth=110)
    new.metadata = {"Content-Type": "text/plain; charset=UTF-8", "Language": path.parent.name}
    for line, text in messages:
        if new.find(text):
            continue
        entry = old.pop(text, None) or _fuzzy(text, old)
        entry.occurrences, entry.obsolete = [(file, str(line))], False
        new.append(entry)
    for entry in old.values():
        if entry.msgstr:
            entry.obsolete, entry.occurrences = True, []
            new.append(entry)
    with atomic_write(path, "w") as stream:
        stream.write(str(new) + "\n")
    return len(new) - len(new.obsolete_entries()), len(new.untranslated_entries()) + len(new.fuzzy_entries())


def _fuzzy(text: str, old: dict[str, polib.POEntry]) -> polib.POEntry:  # noqa: F821
    """A new entry, with the translation of the most similar lost text, if any, to be looked at."""
    import polib

    entry = polib.POEntry(msgid=text, msgstr="")
    near = difflib.get_close_matches(text, [key for key, e in old.items() if e.msgstr], n=1, cutoff=0.7)
    if near:
        entry.msgstr, entry.flags = old[near[0]].msgstr, ["fuzzy"]
    return entry


def _read(path: Path) -> polib.POFile:  # noqa: F821
    """Read a catalogue."""
    try:
        import polib
    except ImportError as error:
        raise ImportError("translations need polib; install it with: pip install 'cs336[lectures]'") from error
    try:
        return polib.pofile(str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no gettext catalogue: {error}") from error

"""Translations: found by their text, kept up to date, and complete where we say so."""

from __future__ import annotations

import re
from pathlib import Path

import polib
import pytest

from lectures.i18n.catalogue import FOLDER, catalogue, extract, translator, update
from lectures.pages.markup import Markup
from lectures.pages.strings import all_strings

LECTURES = Path(__file__).parents[3] / "lectures"
SOURCE = '''
text("One")
quiz("Why?", """
    Because
    of it.
""")
text("code", verbatim=True)
exercise("Do {n}", test="x"), plot(f, alt="A plot")
text(f"computed {n}")
'''


def test_texts_are_found_in_the_source():
    assert [text for _, text in extract(SOURCE)] == ["One", "Why?", "Because\nof it.", "Do {n}", "A plot"]


def test_update_keeps_adds_and_marks(tmp_path):
    path = tmp_path / "xx" / "demo.po"
    assert update(path, [(1, "The first text of all"), (2, "Second")], file="demo.py") == (2, 2)
    book = polib.pofile(str(path))
    book.find("The first text of all").msgstr = "Erster"
    book.find("Second").msgstr = "Zweiter"
    book.save()
    total, missing = update(path, [(5, "The first text of them all"), (9, "Third")], file="demo.py")
    book = polib.pofile(str(path))
    assert (total, missing) == (2, 2)
    changed = book.find("The first text of them all")
    assert changed.fuzzy and changed.msgstr == "Erster" and changed.occurrences == [("demo.py", "5")]
    assert {e.msgid for e in book.obsolete_entries()} >= {"Second"}


@pytest.mark.parametrize("name", ["lecture_01", "ui"])
def test_chinese_is_complete(name):
    source = LECTURES / f"{name}.py"
    wanted = all_strings() if name == "ui" else [text for _, text in extract(source.read_text(encoding="utf-8"))]
    known = catalogue("zh", name)
    assert [text for text in wanted if text not in known] == []
    placeholders, formulas = r"\{[a-z_]+[^{}]*\}", r"\$\$[^$]+\$\$|\$[^$]+\$"
    for text in wanted:
        translation = known[text]
        assert sorted(re.findall(placeholders, text)) == sorted(re.findall(placeholders, translation)), text
        if name != "ui":
            assert sorted(re.findall(formulas, text)) == sorted(re.findall(formulas, translation)), text
            assert re.findall(r"(?m)^(#+ |\| |- )", text) == re.findall(r"(?m)^(#+ |\| |- )", translation), text
            assert "**" not in re.sub(r"<[^>]*>", "", Markup().block(translation)), "bold that Markdown does not see"
        if len(text) > 8:
            assert translation != text


def test_what_has_no_translation_stays_english():
    assert translator("zh", "lecture_01")("no such text") == "no such text"
    assert translator("zh", "no_such_lecture")("x") == "x" and catalogue("en", "lecture_01") == {}


def test_a_damaged_catalogue_is_named(tmp_path, monkeypatch):
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "demo.po").write_text('msgid "a"\nthis is nonsense\n', encoding="utf-8")
    monkeypatch.setattr("lectures.i18n.catalogue.FOLDER", tmp_path)
    with pytest.raises(ValueError, match="demo.po is no gettext catalogue"):
        catalogue("zh", "demo")
    assert FOLDER.is_dir()

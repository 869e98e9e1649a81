"""The words of the viewer, in English; `i18n/LANGUAGE/ui.po` holds their translations.

An element with `data-t="Forward"` shows the translation of "Forward". Read next: `viewer/text.js`.
"""

from __future__ import annotations

import re
from pathlib import Path

from lectures.i18n.catalogue import catalogue


def all_strings() -> list[str]:
    """Every string that the viewer shows: those in its script, its page and the builder."""
    folder = Path(__file__).parent
    found: list[str] = []
    for path in sorted(folder.glob("viewer/*.js")):
        found += re.findall(r'\bT\("([^"]+)"', path.read_text(encoding="utf-8"))
    for path in [folder / "viewer" / "page.html", *sorted(folder.glob("*.py"))]:
        found += re.findall(r'data-(?:t|label)="([^"{}]+)"', path.read_text(encoding="utf-8"))
    return sorted({string for string in found if string not in ('Forward"',)})


def translated_strings(languages: list[str]) -> dict[str, dict[str, str]]:
    """For each language but English its translations."""
    return {language: catalogue(language, "ui") for language in languages if language != "en"}

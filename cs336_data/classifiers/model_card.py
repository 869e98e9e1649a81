"""Model cards: what a model was trained on, how it did, what it must not be used for; as JSON and as Markdown.

Figures come from the build; the prose about data and limits is in `TEXTS`. Mitchell et al. 2019. Read next: `build.py`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write, write_json

BLIND = """The author had read one-line descriptions of the public tests' sentences (in a digest of the course) before
writing, not the sentences; frames that resembled a description were taken out again. Held-out items were written before
the generator, by the same hand. Their errors were looked at once: no frame was written from them, but frames that shared
words with a held-out item were reworded when the overlap guard named them, so the figures may flatter a little. Penalties
are chosen and probabilities calibrated on generated validation frames that training does not see."""

TEXTS = {
    "harm": f"""Two models, `nsfw.npz` and `toxic.npz`: logistic regression over hashed n-grams of words and characters.

**nsfw**: sexually explicit, or obscene in its wording (strong swear words included), whoever is meant.
**toxic**: insult, threat or hate directed at a person or a group; swearing at things is not toxic.

## Data

Training sentences are made by `cs336_data/training/harm_sentences.py` from the lists in `harm_words.toml` (written for
this project): insults, threats, hate by frame, obscene exclamations, pornographic spam, and as much harmless text that shares
their words: clinical terms, crime reports, quoted abuse, mild oaths, criticism of things, names that contain bad words.
Vulgar words are hidden at random (f*ck, sh1t). A third more are pieces of the Python library's code and documentation,
as examples of strange but harmless text. The held-out set, `heldout/harm.tsv`, has 320 sentences written by hand.

{BLIND}

## Limits

English only. No slurs against groups are in the data, so that hate by slur alone is missed. Irony, veiled threats and
insults without an insulting word are mostly missed. One author's idea of what is obscene or toxic. Held-out items are
sentences: figures do not carry over to whole web pages. Not for decisions about people.""",
    "quality": f"""One model, `quality.json`: logistic regression over nineteen counts, one weight each, readable in the file.

**wiki**: informative prose as in reference works. **cc**: menus, shops, forums, keyword spam, advertisements, chat.

## Data

Training pages are made by `cs336_data/training/quality_pages.py`: docstrings of the Python library and generated entries
on invented things against generated furniture of web pages. The held-out set, `heldout/quality.tsv`, has 303 pages
written by hand: paragraphs on real subjects, and bad pages of some sixty kinds.

{BLIND}

## Limits

English only. It sees form, not truth or worth: fluent filler passes, good tables and poems fail. The held-out pages are
clear cases and short; real crawls hold every shade between, so expect less there. Length is no feature.""",
}


def write_card(folder: Path, name: str, facts: dict[str, Any], parts: dict[str, dict[str, Any]]) -> None:
    """Write NAME_card.json and NAME_card.md.

    Args:
        folder: of the models.
        name: a key of `TEXTS`.
        facts: seed, sizes, hashes.
        parts: per model: `held_out` (an evaluation as a dictionary), `sweep` (rows), and whatever else is to be kept.
    """
    stored = {
        model: part | {"sweep": [dataclasses.asdict(row) for row in part["sweep"]]} for model, part in parts.items()
    }
    write_json(folder / f"{name}_card.json", facts | stored)
    lines = [f"# Model card: {name}", "", TEXTS[name], "", "## Build", ""]
    lines += [f"- {key.replace('_', ' ')}: {value}" for key, value in facts.items()]
    for model, part in parts.items():
        lines += ["", f"## {model} on the held-out set", "", *_measures(part["held_out"]), "", *_sweep(part["sweep"])]
    with atomic_write(folder / f"{name}_card.md", "w") as file:
        file.write("\n".join(lines) + "\n")


def _measures(held_out: dict[str, Any]) -> list[str]:
    """A table of the evaluation and one of its calibration."""

    def with_interval(name: str) -> str:
        low, high = held_out[f"{name}_interval"]
        return f"{held_out[name]:.3f} ({low:.3f} to {high:.3f})"

    return [
        "| measure | value (95 % interval) |", "|---|---|",
        f"| items | {held_out['items']}, of which {held_out['positives']} positive |",
        f"| balanced accuracy | {with_interval('balanced_accuracy')} |",
        f"| recall | {with_interval('recall')} |",
        f"| specificity | {with_interval('specificity')} |",
        f"| precision | {held_out['precision']:.3f} |",
        f"| Brier score | {held_out['brier']:.3f} |",
        f"| expected calibration error | {held_out['calibration_error']:.3f} |",
        "", "| mean probability | share positive | items |", "|---|---|---|",
        *(f"| {mean:.2f} | {share:.2f} | {count} |" for mean, share, count in held_out["bins"]),
    ]  # fmt: skip


def _sweep(rows: list[Any]) -> list[str]:
    """A table of thresholds."""
    shown = [row for row in rows if round(row.threshold * 20) % 4 == 2 or row.threshold == 0.9]
    return [
        "| threshold | called positive | precision | recall |", "|---|---|---|---|",
        *(
            f"| {row.threshold:.2f} | {row.kept:.3f} | {'-' if row.precision is None else f'{row.precision:.3f}'} "
            f"| {row.recall:.3f} |"
            for row in shown
        ),
    ]  # fmt: skip

"""`cs336 similarity`: which submissions look alike, for a person to judge; never a score.

    copydetect: winnowed fingerprints of the code's tokens (Schleimer et al. 2003, as MOSS has them)

What is in the handout counts for nobody; earlier terms' submissions are compared with but not with each other. Each
submission is unpacked by the grader's rules, so links, bombs and foreign files are refused before anything is read.
Left out: a threshold that decides anything; alike code has many honest reasons. Read next: `grading/staging.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_basics.runs.command_line import parse, print_result
from cs336_basics.runs.report import Cell, Paragraph, Preformatted, Report, Section, Table, write_report
from cs336_course.grading.staging import SubmissionError, stage

NOISE_TOKENS, GUARANTEED_TOKENS = 20, 25
MAX_SHOWN, MAX_ROWS, MAX_EXCERPT = 20, 200, 3000


@dataclass(frozen=True)
class Pair:
    """Two submissions and how much of each is in the other."""

    one: str
    other: str
    share_one: float
    """of the first one's tokens, handout left out"""
    share_other: float
    tokens: int
    excerpt: str
    """the longest common passage, as it stands in the first"""

    @property
    def share(self) -> float:
        """The larger of the two."""
        return max(self.share_one, self.share_other)


def compare(
    submissions: Sequence[Path], *, base: Path | None = None, previous: Sequence[Path] = ()
) -> tuple[list[Pair], dict[str, str]]:
    """All pairs, most alike first, and the submissions that could not be read with the reason.

    Args:
        submissions: zip files or folders of this term.
        base: the handout, whose code counts for nobody.
        previous: submissions of earlier terms.

    Raises:
        ImportError: copydetect is not installed; says how to install it.
    """
    copydetect = _copydetect()
    with tempfile.TemporaryDirectory(prefix="cs336-similarity-") as scratch:
        root = Path(scratch)
        prints, refused = {}, {}
        handout = [] if base is None else _fingerprints_of_handout(copydetect, base, root / "handout.py")
        for number, path in enumerate([*submissions, *previous]):
            try:
                name = _name(path, path in previous)
                prints[name] = _fingerprint(copydetect, path, root / f"{number}", handout)
            except SubmissionError as error:
                refused[path.name] = str(error)
        names = list(prints)
        old = {_name(path, True) for path in previous}
        pairs = [
            _pair(copydetect, one, other, prints[one], prints[other])
            for i, one in enumerate(names)
            for other in names[i + 1 :]
            if not (one in old and other in old)
        ]
    return sorted(pairs, key=lambda pair: (-pair.share, pair.one, pair.other)), refused


def _name(path: Path, old: bool) -> str:
    return f"{'earlier/' if old else ''}{path.stem if path.is_file() else path.name}"


def _fingerprint(copydetect: Any, submission: Path, folder: Path, handout: list[Any]) -> Any:
    """One fingerprint over all Python files of a submission, in order of name."""
    staged = stage(submission, folder)
    code = "\n".join((staged.root / name).read_text(errors="replace") for name in staged.files if name.endswith(".py"))
    file = folder.with_suffix(".py")
    file.write_text(code, encoding="utf-8")
    return copydetect.CodeFingerprint(
        str(file), NOISE_TOKENS, GUARANTEED_TOKENS - NOISE_TOKENS + 1, boilerplate=handout, language="python"
    )


def _fingerprints_of_handout(copydetect: Any, base: Path, file: Path) -> Any:
    """Hashes of everything the handout contains."""
    import numpy as np

    code = "\n".join(path.read_text(errors="replace") for path in sorted(base.rglob("*.py")))
    file.write_text(code, encoding="utf-8")
    window = GUARANTEED_TOKENS - NOISE_TOKENS + 1
    found = copydetect.CodeFingerprint(str(file), NOISE_TOKENS, window, language="python")
    return np.unique(np.array(list(found.hashes)))


def _pair(copydetect: Any, one: str, other: str, first: Any, second: Any) -> Pair:
    tokens, (share_one, share_other), (slices, _) = copydetect.compare_files(first, second)
    excerpt = ""
    if tokens:
        starts, ends = (list(map(int, row)) for row in slices)
        longest = max(range(len(starts)), key=lambda i: ends[i] - starts[i])
        excerpt = first.raw_code[starts[longest] : ends[longest]]
    return Pair(one, other, float(share_one), float(share_other), int(tokens), excerpt)


def _copydetect() -> Any:
    try:
        import copydetect
    except ImportError as error:
        raise ImportError(
            "similarity needs copydetect; install it with: pip install copydetect (extra `similarity`)"
        ) from error
    return copydetect


def report(pairs: Sequence[Pair], refused: dict[str, str]) -> Report:
    """The page for staff."""
    rows: list[list[Cell]] = [
        [pair.one, pair.other, f"{pair.share_one:.0%}", f"{pair.share_other:.0%}", pair.tokens] for pair in pairs
    ]  # fmt: skip
    page = Report("Similar submissions", [
        Paragraph("Shares of each submission's tokens that also stand in the other; the handout's own code is left out. "
                  "Alike code has honest reasons (one handout, one lecture, one bug): look, then ask."),
        Table(["one", "other", "of the one", "of the other", "tokens"], rows[:MAX_ROWS], align="llrrr"),
    ])  # fmt: skip
    if len(rows) > MAX_ROWS:
        page.add(Paragraph(f"The {MAX_ROWS} most alike of {len(rows)} pairs."))
    for pair in [pair for pair in pairs if pair.excerpt][:MAX_SHOWN]:
        excerpt = pair.excerpt if len(pair.excerpt) <= MAX_EXCERPT else pair.excerpt[:MAX_EXCERPT] + "\n..."
        caption = f"longest common passage, as in {pair.one}"
        page.add(Section(f"{pair.one} and {pair.other}: {pair.share:.0%}", [Preformatted(excerpt, caption)]))
    if refused:
        page.add(Section("Not compared", [Table(["submission", "reason"], sorted(refused.items()))]))
    return page


@dataclass(frozen=True)
class Similarity:
    """List which submissions look alike, most alike first, as a page for a person to judge; never a score."""

    submissions: Path = Path("submissions")
    """folder with a zip file or folder per submission"""
    base: Path | None = None
    """the handout, whose code counts for nobody"""
    previous: Path | None = None
    """folder with submissions of earlier terms"""
    out: Path = Path("similarity")
    """folder for report.html and report.md"""
    json: bool = False
    """print the result as JSON"""


def similarity(argv: list[str]) -> None:
    """`cs336 similarity`."""
    o = parse(Similarity, argv, "similarity", example="similarity --submissions inbox --base a1 --out similarity")
    from cs336_course.grading.batch import find_submissions

    for folder in filter(None, (o.base, o.previous)):
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}")
    previous = [] if o.previous is None else find_submissions(o.previous)
    pairs, refused = compare(find_submissions(o.submissions), base=o.base, previous=previous)
    page, _ = write_report(report(pairs, refused), o.out)
    best = f"{pairs[0].one} and {pairs[0].other}: {pairs[0].share:.0%}" if pairs else "nothing to compare"
    print_result(
        {"most alike": best, "pairs": len(pairs), "refused": len(refused), "report": str(page)}, as_json=o.json
    )

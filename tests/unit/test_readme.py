"""Every command that a README shows works, and every file it links to is there.

Blocks fenced as ```bash run or ```python run are executed. Commands `make ...` and `cs336 ...` anywhere else (also in
tables) may be long, so they are checked for existence only: `make -n`, `cs336 ... --help`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cs336_course.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("cs336_*/README.md"))]
BLOCK = re.compile(r"^```(bash|python)( run)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*, run: bool) -> list[tuple[str, str]]:
    """(language, code) of the fenced blocks of README.md."""
    found = BLOCK.findall(PAGES[0].read_text(encoding="utf-8"))
    return [(language, code) for language, marker, code in found if bool(marker) == run]


def commands(program: str) -> list[str]:
    """All distinct commands of `program` in inline code or in blocks that are not executed, on any page."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    inline = re.findall(rf"`({program} [^`\n]+)`", text)
    listed = re.findall(rf"^({program} [^#\n]+)", "\n".join(code for _, _, code in BLOCK.findall(text)), re.MULTILINE)
    return sorted({command.strip() for command in inline + listed})


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run with this checkout and this interpreter's programs in reach; no input."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120
    )


def test_readme_has_a_runnable_example():
    assert [language for language, _ in blocks(run=True)].count("python") >= 1


@pytest.mark.parametrize(("language", "code"), blocks(run=True))
def test_runnable_blocks(language, code, tmp_path):
    command = [sys.executable, "-W", "error", "-c", code] if language == "python" else ["bash", "-ec", code]
    result = run(command, tmp_path if language == "python" else ROOT)
    assert result.returncode == 0, f"{code}\nfailed with:\n{result.stdout}\n{result.stderr}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("command", commands("make"))
def test_make_targets_exist(command):
    """MAKEFLAGS and friends of an outer make must not reach this one."""
    words = command.split()
    result = run(["env", "-u", "MAKEFLAGS", "-u", "MAKELEVEL", "make", "-n", words[1]], ROOT)
    assert result.returncode == 0, f"{command}: {result.stderr}"


def verbs_of(command: str) -> str:
    """The words before the first option or path."""
    found = re.match(r"cs336((?: [a-z][a-z0-9-]*)*)", command)
    assert found is not None
    return found[1].strip()


@pytest.mark.parametrize("verbs", sorted({verbs_of(command) for command in commands("cs336")}))
def test_cs336_commands_exist(verbs, tmp_path, monkeypatch, capsys):
    """Each explains itself. In this process, as a start costs seconds; that `cs336` starts is for test_cli.py to say."""
    monkeypatch.chdir(tmp_path)
    code = main([*verbs.split(), "--help"])
    out, err = capsys.readouterr()
    assert code == 0 and out, f"{verbs}: {err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page} links to {missing}, which do not exist"

"""The evidence for an entry: one folder that its owner keeps and hands to whoever verifies.

    code.zip       packages cs336_* and the entrypoint as tests/adapters.py, packed by the grader's rules
    artifacts/     data files: model.safetensors, model_config.json, tokenizer/, documents.jsonl ... ; never a pickle
    run/           config.json, log.jsonl, log.chain, evidence.json of the training run, where there was one

Read next: `run_checks.py`, then `verify.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from cs336_basics.corpora.corpus_files import file_sha256
from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_course.grading.autograder import zip_bytes
from cs336_course.grading.staging import stage
from cs336_course.leaderboards.entry import Artifact, Entry

ROOT = Path(__file__).parents[2]
RUN_FILES = ("config.json", "log.jsonl", "log.chain", "evidence.json")
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens.json")


def pack_code(packages: list[Path], entrypoint: Path, out: Path) -> str:
    """Write code.zip; returns the hash of its tree.

    Args:
        packages: package folders (`cs336_basics` ...).
        entrypoint: Python file with the functions the board calls (see `baselines/` for one per board).

    Raises:
        ValueError: what the grader would refuse, or no such file.
    """
    if not entrypoint.is_file():
        raise FileNotFoundError(f"no entrypoint {entrypoint}; copy one from {Path(__file__).parent / 'baselines'}")
    files = {"tests/__init__.py": b"", "tests/adapters.py": entrypoint.read_bytes()}
    for package in packages:
        for path in sorted(package.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"{package.name}/{path.relative_to(package).as_posix()}"] = path.read_bytes()
    with tempfile.TemporaryDirectory(prefix="cs336-code-") as folder:
        raw = Path(folder) / "raw.zip"
        raw.write_bytes(zip_bytes(files))
        staged = stage(raw, Path(folder) / "stage")
        kept = {name: (staged.root / name).read_bytes() for name in staged.files}
    with atomic_write(out) as target:
        target.write(zip_bytes(kept))
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(kept.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def model_artifacts(run: Path, target: Path) -> None:
    """Copy a training run's model into artifacts: weights as safetensors, configuration, tokenizer.

    Raises:
        ValueError: the run is not complete, or was trained without a tokenizer.
    """
    from safetensors.torch import save_file

    from cs336_basics.checkpoint import load_state
    from cs336_basics.runs.directory import RunDirectory

    directory = RunDirectory(run)
    if not directory.is_complete:
        raise ValueError(f"{run} is no finished training run; give the folder of `cs336 train --out`")
    tokenizer = directory.config().get("tokenizer")
    if not tokenizer:
        raise ValueError(f"the run {run} has no tokenizer, which bits per byte need; train with --tokenizer")
    target.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous().clone() for name, value in load_state(run / "model.pt").items()}
    save_file(weights, target / "model.safetensors")
    shutil.copyfile(run / "model_config.json", target / "model_config.json")
    for name in TOKENIZER_FILES:
        (target / "tokenizer").mkdir(exist_ok=True)
        shutil.copyfile(Path(tokenizer) / name, target / "tokenizer" / name)


def copy_run(run: Path, target: Path) -> None:
    """Copy what a training run says about itself.

    Raises:
        FileNotFoundError: the run was made before runs had evidence.
    """
    missing = [name for name in RUN_FILES if not (run / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{run} has no {missing[0]}; finish the run with this version of `cs336 train`")
    target.mkdir(parents=True, exist_ok=True)
    for name in RUN_FILES:
        shutil.copyfile(run / name, target / name)


def list_artifacts(evidence: Path) -> tuple[Artifact, ...]:
    """Every file of the evidence with its hash, in order of name."""
    files = sorted(path for path in evidence.rglob("*") if path.is_file() and not path.name.startswith("."))
    return tuple(Artifact(p.relative_to(evidence).as_posix(), file_sha256(p), p.stat().st_size) for p in files)


def difference(entry: Entry, evidence: Path) -> str | None:
    """The first way in which the evidence is not what the entry lists; None when it is."""
    if not evidence.is_dir():
        return f"no folder {evidence}"
    claimed = {artifact.path: artifact.sha256 for artifact in entry.artifacts}
    found = {artifact.path: artifact.sha256 for artifact in list_artifacts(evidence)}
    for name in sorted(claimed.keys() | found.keys()):
        if claimed.get(name) != found.get(name):
            state = "is missing" if name not in found else "is not listed" if name not in claimed else "was changed"
            return f"{name} {state}"
    return None


def reference_packages(*names: str) -> list[Path]:
    """Package folders of this library."""
    return [ROOT / name for name in names]


def read_json(path: Path) -> Any:
    """A JSON file of the evidence.

    Raises:
        ValueError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} is missing or not JSON: {error}") from error


def write_artifact(folder: Path, name: str, value: Any) -> None:
    """A JSON artifact."""
    write_json(folder / "artifacts" / name, value)

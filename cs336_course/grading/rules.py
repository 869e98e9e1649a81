"""The from-scratch rule as a lint: which forbidden names a submission uses, with file and line.

Assignment 1 forbids torch.nn, torch.nn.functional and torch.optim, save Parameter, the containers, Module, init and
the base class Optimizer; in all assignments, reaching for the grader's or the library's files is noted. A flag is for
a person to look at, never a zero: aliases can hide from it, and a comment is no crime.

Source: handout section "What you can use". Read next: `judge.py`.
"""

from __future__ import annotations

import ast
from pathlib import Path

from cs336_course.grading.staging import Flag

CONTAINERS = {"Parameter", "Module", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict", "Sequential"}
ALLOWED = {
    "torch.nn": CONTAINERS | {"init", "Buffer", "parameter", "modules"},
    "torch.optim": {"Optimizer", "optimizer"},
}
FORBIDDEN_TENSOR_FUNCTIONS = {"torch.softmax", "torch.log_softmax", "torch.logsumexp", "torch.layer_norm",
                              "torch.rms_norm", "torch.embedding", "torch.bilinear", "torch.celu"}  # fmt: skip
LIBRARIES = {
    "basics": {"tiktoken", "tokenizers", "transformers", "sentencepiece", "keras", "tensorflow", "jax", "flax"},
    "systems": {"flash_attn", "xformers", "deepspeed", "fairscale", "accelerate", "apex"},
    "scaling": set(),
    "data": {"datatrove", "dolma", "datasketch", "rensa", "text_dedup", "nemo_curator"},
    "alignment": {"trl", "verl", "openrlhf", "transformers.Trainer", "transformers.Seq2SeqTrainer"},
}
"""top-level packages, and single names of packages that are allowed otherwise"""
SUSPECT = {"ctypes", "gc", "inspect", "subprocess", "socket", "ptrace"}
FROM_SCRATCH = {"basics"}


def lint(root: Path, files: list[str], assignment: str) -> list[Flag]:
    """Flags of all Python files, in order; a file that does not parse is one too.

    Code of the other assignments may use what this one forbids.
    """
    flags = []
    for name in files:
        if name.endswith(".py"):
            own = name.startswith((f"cs336_{assignment}/", "tests/"))
            found = lint_source((root / name).read_bytes(), name, assignment)
            flags += [flag for flag in found if own or flag.kind != "from-scratch"]
    return flags


def lint_source(source: bytes, name: str, assignment: str) -> list[Flag]:
    """Flags of one file."""
    try:
        tree = ast.parse(source, filename=name)
    except (SyntaxError, ValueError, RecursionError) as error:
        return [Flag("syntax", name, getattr(error, "lineno", 0) or 0, f"does not parse: {error}")]
    aliases = _aliases(tree)
    found: dict[tuple[int, str], str] = {}
    for node in ast.walk(tree):
        for dotted in _names(node, aliases):
            if (text := _objection(dotted, assignment)) is not None:
                found.setdefault((getattr(node, "lineno", 0), text[1]), text[0])
    return [Flag(kind, name, line, text) for (line, text), kind in sorted(found.items())]


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name, from the import statements."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                names[item.asname or item.name.split(".")[0]] = item.name if item.asname else item.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for item in node.names:
                names[item.asname or item.name] = f"{node.module}.{item.name}"
    return names


def _names(node: ast.AST, aliases: dict[str, str]) -> list[str]:
    """The full dotted names that this node uses or imports."""
    if isinstance(node, ast.Import):
        return [item.name for item in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [f"{node.module}.{item.name}" for item in node.names]
    if isinstance(node, ast.Attribute):
        parts: list[str] = []
        value: ast.AST = node
        while isinstance(value, ast.Attribute):
            parts.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name) and value.id in aliases:
            return [".".join([aliases[value.id], *reversed(parts)])]
    return []


def _objection(dotted: str, assignment: str) -> tuple[str, str] | None:
    """(kind, text) if the rule forbids this name."""
    top = dotted.split(".")[0]
    for name in (top, dotted):
        if name in LIBRARIES.get(assignment, set()):
            return "from-scratch", f"{name} is a library for what this assignment builds"
    if top in SUSPECT:
        return "suspect", f"uses {top}"
    if assignment not in FROM_SCRATCH:
        return None
    if dotted in FORBIDDEN_TENSOR_FUNCTIONS or dotted.endswith(".scaled_dot_product_attention"):
        if top == "torch":
            return "from-scratch", f"{dotted} is to be written by hand"
    for module, allowed in ALLOWED.items():
        if dotted == f"{module}.functional" or dotted.startswith(f"{module}.functional."):
            return "from-scratch", "torch.nn.functional is to be written by hand"
        if dotted.startswith(f"{module}.") and dotted[len(module) + 1 :].split(".")[0] not in allowed:
            return "from-scratch", f"{'.'.join(dotted.split('.')[:3])} is to be written by hand"
    return None

"""Handouts: the same bytes each time, nothing on the list but what was meant, blanked adapters, no reference inside."""

from __future__ import annotations

import ast

import pytest

from cs336_course.handouts.blank import blank_adapters, without_solutions
from cs336_course.handouts.check import function_bodies, leaks
from cs336_course.handouts.generate import ROOT, handout_files, tree_hash, write_handout
from cs336_course.handouts.manifest import load_manifest, manifests

BASICS = """AGENTS.md CLAUDE.md LICENSE README.md cs336_basics/__init__.py handout.md pyproject.toml tests/__init__.py
tests/adapters.py tests/assertions.py tests/conftest.py tests/fixtures/__init__.py tests/fixtures/bpe_cases.json
tests/fixtures/bpe_cases.py tests/fixtures/merges.txt
tests/fixtures/model_files.py tests/fixtures/model_learned.npz tests/fixtures/model_rope.npz tests/fixtures/texts.py
tests/fixtures/tokenizer_files.py tests/fixtures/vocab.json tests/test_data.py tests/test_model.py
tests/test_nn_utils.py tests/test_optimizer.py tests/test_serialization.py tests/test_tokenizer.py tests/test_train_bpe.py"""


def test_basics_holds_exactly_this():
    assert list(handout_files(load_manifest("basics"))) == sorted(BASICS.split())


@pytest.mark.parametrize("assignment", manifests())
def test_same_bytes_and_no_leak(assignment, tmp_path):
    files = handout_files(load_manifest(assignment))
    assert tree_hash(files) == tree_hash(dict(reversed(files.items())))
    revealed = [name for name in files if name.startswith("cs336_") and files[name]]
    assert leaks(files, revealed=revealed) == []
    assert files["AGENTS.md"] == files["CLAUDE.md"] and files[f"{load_manifest(assignment).package}/__init__.py"] == b""
    write_handout(files, tmp_path / "out")
    found = {
        p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()
    }
    assert found == files
    with pytest.raises(ValueError, match="not empty"):
        write_handout(files, tmp_path / "out")


@pytest.mark.parametrize("assignment", manifests())
def test_adapters_do_nothing_but_raise(assignment):
    """Read with the syntax tree: every function is a docstring and the raise, and no package is imported."""
    tree = ast.parse(handout_files(load_manifest(assignment))["tests/adapters.py"])
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions
    for function in functions:
        docstring, statement = function.body
        assert isinstance(docstring, ast.Expr) and ast.unparse(statement) == "raise NotImplementedError"
    assert "cs336_" not in ast.unparse(tree)


def test_staff_code_only_where_the_manifest_says(tmp_path):
    with_staff = handout_files(load_manifest("systems"))
    without = handout_files(load_manifest("systems"), previous="none")
    assert "cs336_basics/model.py" in with_staff and not any(name.startswith("cs336_basics") for name in without)
    assert not any("tokenization" in name or name.startswith("cs336_systems/kernels") for name in with_staff)


def test_blanking_keeps_signature_docstring_and_comments():
    source = '"""Door."""\n\nimport os\n\n\n# ---\n# Assignment 1, x\n# ---\n\n\n@os.deco\ndef f(a: int, *, b=1) -> int:\n    """What."""\n    return g(a)\n\n\ndef _g(a):\n    """No."""\n    return a\n\n\n# ---\n# Assignment 2\n# ---\n\n\ndef h():\n    """H."""\n    return 1\n'
    blank = blank_adapters(source, "Assignment 1")
    assert '@os.deco\ndef f(a: int, *, b=1) -> int:\n    """What."""\n    raise NotImplementedError\n' in blank
    assert "_g" not in blank and "def h" not in blank and "return" not in blank
    with pytest.raises(ValueError, match="no section"):
        blank_adapters(source, "Assignment 9")


def test_marked_parts_are_left_out():
    marked = "a = 1\n# cs336: solution begin\nb = 2\n# cs336: solution end\nc = 3\n"
    assert without_solutions(marked, "x") == "a = 1\nc = 3\n"
    for broken in (marked.replace("begin", "end"), marked.replace("solution end", "solution begin"), marked[:30]):
        with pytest.raises(ValueError, match="solution"):
            without_solutions(broken, "x")


def test_the_oracles_of_the_staff_are_leaks():
    """Even under another name, and though they lie in tests/."""
    for oracle in ("naive_bpe.py", "fixtures/numpy_transformer.py", "hidden/comparing.py"):
        found = leaks({"tests/innocent.py": (ROOT / "tests" / oracle).read_bytes()}, revealed=[])
        assert found and all("has the body" in text for text in found)


def test_a_copied_reference_function_is_a_leak():
    """Renamed variables do not hide it."""
    stolen = b"def mine(u, v):\n    q = u + 1\n    for w in v:\n        q += w\n    return q\n"
    original = "def theirs(a, b):\n    'Doc.'\n    c = a + 1\n    for d in b:\n        c += d\n    return c\n"
    assert list(function_bodies(stolen.decode()).values()) == list(function_bodies(original).values())
    assert leaks({"tests/hidden/x.py": b""}, revealed=[])


@pytest.mark.parametrize("assignment", manifests())
def test_tests_find_what_they_import_and_call(assignment):
    """By the syntax trees: each relative import is a file of the handout, each adapter called is among the blanked."""
    files = handout_files(load_manifest(assignment))
    adapters = {n.name for n in ast.walk(ast.parse(files["tests/adapters.py"])) if isinstance(n, ast.FunctionDef)}
    for name in (name for name in files if name.startswith("tests/") and name.endswith(".py")):
        folder = name.rpartition("/")[0].split("/")
        for node in ast.walk(ast.parse(files[name])):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = folder[: len(folder) - node.level + 1]
                module = "/".join(base + (node.module or "").split(".")).rstrip("/")
                for place in [module] if node.module else [f"{module}/{alias.name}" for alias in node.names]:
                    assert f"{place}.py" in files or f"{place}/__init__.py" in files, (name, place)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "adapters":
                assert node.attr in adapters, f"{name} calls {node.attr}, which this handout's adapters do not have"

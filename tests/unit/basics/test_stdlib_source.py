"""The library's sources: a made-up tree checked by hand, and the real library."""

import ast
import hashlib
import json

import pytest

from cs336_basics.corpora.corpus_files import write_documents
from cs336_basics.corpora.stdlib_source import stdlib_files, write_stdlib

END = "<|endoftext|>"


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "lib"
    files = {
        "b.py": b"b = 1\n",
        "a.py": b"a = 1",
        "windows.py": b"first\r\nsecond\r\n\r\n",
        "marked.py": b"\xef\xbb\xbfx = '<|endoftext|>'\n",
        "latin.py": b"name = '\xe9'\n",
        "empty.py": b"",
        "blank.py": b"\n\n",
        "note.txt": b"no code\n",
        "pack/__init__.py": "umlaut = '\u00e4'\n".encode(),
        "pack/__pycache__/c.py": b"c\n",
        "pack/test/t.py": b"t\n",
        "site-packages/s.py": b"s\n",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def names(root, **options):
    return [path.relative_to(root).as_posix() for path in stdlib_files(root, **options)]


def test_files_of_a_tree(tree):
    assert names(tree) == ["a.py", "b.py", "marked.py", "pack/__init__.py", "windows.py"]
    assert names(tree, include_tests=True) == [*names(tree)[:4], "pack/test/t.py", "windows.py"]


def test_written_tree(tree, tmp_path):
    out = tmp_path / "out"
    manifest = write_stdlib(out, valid_fraction=0.5, root=tree)
    texts = {}
    for split in ("train", "valid"):
        content = (out / f"{split}.txt").read_bytes()
        *texts[split], rest = content.decode().split(END)
        assert rest == ""
        assert manifest[split]["documents"] == len(texts[split]) > 0
        assert manifest[split]["bytes"] == sum(len(text.encode()) for text in texts[split])
        assert manifest[split]["sha256"] == hashlib.sha256(content).hexdigest()
    expected = ["a = 1\n", "b = 1\n", "x = '<|end_of_text|>'\n", "umlaut = '\u00e4'\n", "first\nsecond\n"]
    assert sorted(texts["train"] + texts["valid"]) == sorted(expected)
    assert json.loads((out / "manifest.json").read_text()) == manifest


def test_a_file_keeps_its_split_when_others_come(tree, tmp_path):
    write_stdlib(tmp_path / "before", valid_fraction=0.5, root=tree)
    (tree / "aa.py").write_text("new\n")
    (tree / "zz.py").write_text("newer\n")
    write_stdlib(tmp_path / "after", valid_fraction=0.5, root=tree)
    for split in ("train.txt", "valid.txt"):
        before, after = ((tmp_path / name / split).read_text().split(END) for name in ("before", "after"))
        assert set(before) <= set(after)


def test_writing_twice_does_nothing_and_repairs_damage(tree, tmp_path):
    manifest = write_stdlib(tmp_path / "out", valid_fraction=0.5, root=tree)
    train = tmp_path / "out" / "train.txt"
    content, written = train.read_bytes(), train.stat().st_mtime_ns
    assert write_stdlib(tmp_path / "out", valid_fraction=0.5, root=tree) == manifest
    assert train.stat().st_mtime_ns == written
    train.write_bytes(b"broken")
    assert write_stdlib(tmp_path / "out", valid_fraction=0.5, root=tree) == manifest
    assert train.read_bytes() == content


def test_missing_sources(tmp_path):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="zipped or stripped; use a Python with sources"):
            stdlib_files(root)


def test_arguments(tree, tmp_path):
    with pytest.raises(ValueError, match="valid_fraction must be between 0 and 1.*got 1"):
        write_stdlib(tmp_path / "out", valid_fraction=1, root=tree)
    with pytest.raises(ValueError, match="max_bytes must be at least 1.*got 0"):
        write_stdlib(tmp_path / "out", max_bytes=0, root=tree)
    with pytest.raises(ValueError, match="no file falls into the valid split"):
        write_stdlib(tmp_path / "out", valid_fraction=1e-9, root=tree)


def test_the_real_library(tmp_path):
    manifest = write_stdlib(tmp_path, max_bytes=2_000_000)
    total = manifest["train"]["bytes"] + manifest["valid"]["bytes"]
    assert 1_000_000 < total <= 2_000_000
    assert 0.005 < manifest["valid"]["documents"] / manifest["train"]["documents"] < 0.2
    *documents, rest = (tmp_path / "train.txt").read_text(encoding="utf-8").split(END)
    assert rest == "" and len(documents) == manifest["train"]["documents"]
    for document in documents[:20]:
        ast.parse(document)
    real = {path.name for path in stdlib_files()}
    assert {"ast.py", "json", "random.py", "decoder.py"} - real == {"json"}


def test_documents_are_checked(tmp_path):
    with pytest.raises(ValueError, match="document 1 must end with a line feed"):
        write_documents(tmp_path / "x.txt", ["good\n", "bad"])
    with pytest.raises(ValueError, match="document 0 must"):
        write_documents(tmp_path / "x.txt", [f"a{END}b\n"])
    assert not list(tmp_path.iterdir())

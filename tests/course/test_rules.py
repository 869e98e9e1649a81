"""The from-scratch lint: each forbidden way of writing it is flagged with its line, allowed names are not."""

from __future__ import annotations

import pytest

from cs336_course.grading.rules import lint, lint_source


@pytest.mark.parametrize("code", [
    "import torch.nn.functional as F",
    "from torch.nn import functional",
    "import torch\ny = torch.nn.functional.softmax(x, -1)",
    "from torch import nn\nlayer = nn.Linear(3, 4)",
    "import torch.nn as n\nlayer = n.Embedding(3, 4)",
    "from torch.nn import LayerNorm",
    "from torch.optim import AdamW",
    "import torch as t\nt.optim.SGD",
    "import torch\ny = torch.softmax(x, 0)",
    "import tiktoken",
    "from transformers import AutoModel",
])  # fmt: skip
def test_flagged_with_its_line(code):
    flags = lint_source(code.encode(), "cs336_basics/x.py", "basics")
    assert flags and flags[0].kind == "from-scratch" and flags[0].file == "cs336_basics/x.py"
    assert flags[0].line == len(code.splitlines())


@pytest.mark.parametrize("code", [
    "import torch\nw = torch.nn.Parameter(torch.zeros(2))\ny = torch.sigmoid(w)",
    "from torch import nn\nclass A(nn.Module):\n    x = nn.ModuleList()\n    i = nn.init.trunc_normal_",
    "from torch.optim import Optimizer\nclass B(Optimizer): pass",
    "from .nn import functional\nimport json",
    "# torch.nn.functional.softmax in a comment\ns = 'torch.nn.Linear'",
])  # fmt: skip
def test_allowed(code):
    assert lint_source(code.encode(), "x.py", "basics") == []


def test_other_assignments_may_use_torch_nn():
    assert lint_source(b"import torch\nx = torch.nn.Linear(2, 2)", "x.py", "systems") == []


def test_a_file_that_does_not_parse():
    (flag,) = lint_source(b"x = 1\ndef f(:\n", "x.py", "basics")
    assert (flag.kind, flag.line) == ("syntax", 2)
    assert lint_source(b"\x00", "x.py", "basics")[0].kind == "syntax"


def test_code_of_other_assignments_may_use_the_libraries(tmp_path):
    names = ["cs336_basics/x.py", "cs336_systems/x.py", "tests/adapters.py"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("import socket\nfrom torch.nn import Linear\n")
    flags = [(flag.file, flag.kind) for flag in lint(tmp_path, names, "basics")]
    assert [file for file, kind in flags if kind == "suspect"] == names
    assert [file for file, kind in flags if kind == "from-scratch"] == [names[0], names[2]]

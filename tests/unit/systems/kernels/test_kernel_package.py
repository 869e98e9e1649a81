"""Kernels without Triton, ahead-of-time compilation for GPUs that are not here, how the model finds flash attention."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from cs336_systems import leaderboard_attention as board
from cs336_systems.kernels import timing
from cs336_systems.kernels.flash_attention import FlashAttentionPyTorch, flash_causal_attention
from cs336_systems.kernels.triton_kernel import next_power_of_2

ROOT = Path(__file__).parents[4]


def python(*arguments: str, **environment: str) -> str:
    """Output of a fresh interpreter without Triton's interpreter mode."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **environment}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=280, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("capability", "kernels"),
    [
        (90, ["flash_forward d=64 bf16 causal", "flash_backward_one_pass d=64 bf16 causal"]),
        *(pytest.param(capability, kernels, marks=pytest.mark.long) for capability, kernels in (
            (90, ["rms_norm_backward width=4096", "cross_entropy"]), (80, ["flash_forward d=64 bf16 causal"]),
            (100, ["cross_entropy_forward"]),
        )),
    ],
)  # fmt: skip
def test_kernels_compile_for_a_gpu_that_is_not_here(capability, kernels, require, tmp_path):
    """A few; benchmarks/check_kernels_compile.py has all.

    No spilled registers, shared memory within the limit, tensor cores in use where there is a product in bf16.
    """
    require("triton")
    text = python(
        "-m", "cs336_systems.kernels.compile_ahead", "--json", "--capability", str(capability),
        *(f"--kernel={name}" for name in kernels), TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path),
    )  # fmt: skip
    found = [json.loads(line) for line in text.splitlines()]
    assert all(any(entry["name"].startswith(name) for entry in found) for name in kernels)
    problems = {entry["name"]: entry["problems"] for entry in found if entry["problems"]}
    if capability == 90:
        assert not problems
    else:  # the tiles are chosen for 9.0: elsewhere they must fit, and use the tensor cores
        assert not [text for texts in problems.values() for text in texts if "spilled" not in text]


def test_without_triton_the_error_says_what_to_install(tmp_path):
    (tmp_path / "triton.py").write_text("raise ModuleNotFoundError('No module named triton')")
    script = """
import torch
from cs336_systems.kernels.softmax import SoftmaxPyTorch, SoftmaxTriton
print(SoftmaxPyTorch.apply(torch.zeros(1, 2)).tolist())
try:
    SoftmaxTriton.apply(torch.zeros(1, 2))
except ImportError as error:
    print(error)
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    shown = python("-c", script, PYTHONPATH=path)
    assert "[[0.5, 0.5]]" in shown and "pip install triton" in shown


def test_a_cpu_tensor_is_refused_without_the_interpreter(require):
    require("triton")
    script = """
import torch
from cs336_systems.kernels.softmax import SoftmaxTriton
try:
    SoftmaxTriton.apply(torch.zeros(1, 2))
except ValueError as error:
    print(error)
"""
    assert "run on a CUDA device; got tensors on cpu" in python("-c", script, TRITON_INTERPRET="0")


def test_next_power_of_2():
    assert [next_power_of_2(n) for n in (1, 2, 3, 4, 5, 127, 128, 129)] == [1, 2, 4, 4, 8, 128, 128, 256]


def test_the_model_finds_flash_attention_by_its_entry_point(tmp_path):
    """A package's metadata as pip would write it from pyproject.toml; basics itself names no package of the systems."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offers = project["entry-points"]["cs336.attention"]
    assert offers == {"flash": f"{flash_causal_attention.__module__}:{flash_causal_attention.__name__}"}
    (tmp_path / "offer-1.dist-info").mkdir()
    lines = [f"{name} = {where}" for name, where in offers.items()]
    (tmp_path / "offer-1.dist-info" / "entry_points.txt").write_text("\n".join(["[cs336.attention]", *lines]))
    (tmp_path / "offer-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: offer\nVersion: 1\n")
    script = """
from cs336_basics import model
model.check_attention_name("flash")
print(model.ATTENTION_FUNCTIONS["flash"].__name__)
try:
    model.check_attention_name("flesh")
except ValueError as error:
    print(error)
"""
    shown = python("-c", script, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert "flash_causal_attention" in shown and "attention='flesh' is not known" in shown


class TestLeaderboard:
    """The harness on a tiny board, with attention that is right, wrong, or forgets to write."""

    def test_a_right_entry(self):
        result = board.run(FlashAttentionPyTorch.apply, board.QUICK)
        assert result["repeats"] == board.QUICK.repeats and result["median_ms"] > 0
        assert max(*result["errors"].values(), *result["errors_of_a_timed_repeat"].values()) < 1e-5

    def test_operations(self):
        """The handout's count: 1.924e12 for forward and backward."""
        assert board.Board().flops == pytest.approx(1.924e12, rel=1e-3)

    def test_a_wrong_gradient_is_named(self):
        def detached(q, k, v, causal):
            return FlashAttentionPyTorch.apply(q, k, v, causal) + 0.1 * v

        with pytest.raises(ValueError, match="wrong results"):
            board.run(detached, board.QUICK)

    def test_missing_numbers_are_refused(self):
        def unwritten(q, k, v, causal):
            output = FlashAttentionPyTorch.apply(q, k, v, causal)
            return output + torch.where(torch.arange(output.shape[1]) == 3, torch.nan, 0.0)[None, :, None]

        with pytest.raises(ValueError, match="NaN or infinity"):
            board.run(unwritten, board.QUICK)

    def test_a_remembered_answer_is_caught(self):
        """An entry that returns what it computed for the first inputs it saw."""
        memory = []

        def remembers(q, k, v, causal):
            memory.append(FlashAttentionPyTorch.apply(q, k, v, causal).detach())
            return FlashAttentionPyTorch.apply(q, k, v, causal) * 0 + memory[0]

        with pytest.raises(ValueError, match="wrong results"):
            board.run(remembers, board.QUICK)


def test_timing_calls_with_every_input_and_keeps_the_last_output():
    seen = []

    def function(x):
        seen.append(x.item())
        return x * 2

    inputs = [(torch.tensor(float(i)),) for i in range(3)]
    found = timing.measure(function, inputs, warmups=2, repeats=5)
    assert seen == [0, 1, 0, 1, 2, 0, 1]
    assert found.last_input == 1 and found.last_output.item() == 2
    assert found.p10_ms <= found.median_ms <= found.p90_ms
    with pytest.raises(ValueError, match="at least 1"):
        timing.measure(function, [], repeats=1)

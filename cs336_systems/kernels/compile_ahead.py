"""What a GPU would run: compile every kernel for a chip that need not be there, and read what came out.

    python -m cs336_systems.kernels.compile_ahead --capability 90 [--kernel flash_forward] [--json]

Triton carries its own assembler, so this works on any Linux machine. For each kernel: registers per thread, bytes of
spilled registers, shared memory, and which tensor-core instructions are in the machine code. A kernel that spills is
slow without being wrong; one without wgmma (9.0), tcgen05 (10.0) or mma (8.0) does not use the tensor cores. Both are
invisible to tests of the result.

Left out: speed (`benchmarks/bench_gpu_kernels.py`). Read next: `rmsnorm.py`, whose tile choice this checks.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cs336_systems.kernels.triton_kernel import Kernel, import_triton, interpreting

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""bytes of shared memory that one block may ask for, by compute capability times ten"""
TENSOR_CORES = {80: r"mma\.sync", 90: r"wgmma\.mma_async", 100: r"tcgen05\.mma"}
"""the instruction in PTX that says tensor cores are used"""


@dataclass(frozen=True)
class Launch:
    """One way of launching a kernel: the types of its tensors and numbers, and its constants."""

    name: str
    kernel: Kernel
    constants: dict[str, Any]
    types: dict[str, str]
    """by argument; upper case names are *bf16, others i32, unless they stand here"""
    num_warps: int = 4
    num_stages: int = 2
    uses_tensor_cores: bool = False


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel needs."""

    name: str
    capability: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    tensor_core_instructions: int

    def problems(self, launch: Launch) -> list[str]:
        """What would make it slow or impossible to launch."""
        found = []
        if self.spilled_bytes:
            found.append(f"{self.spilled_bytes} bytes of registers are spilled")
        if self.shared_bytes > SHARED_LIMIT[self.capability]:
            found.append(f"{self.shared_bytes} bytes of shared memory; the limit is {SHARED_LIMIT[self.capability]}")
        if launch.uses_tensor_cores and not self.tensor_core_instructions:
            found.append("no tensor-core instruction")
        return found


def compile_launch(launch: Launch, capability: int) -> Resources:
    """Compile for compute capability capability / 10, on any machine.

    Raises:
        ValueError: the interpreter is on: it replaces what would be compiled.
        ImportError: no Triton.
    """
    if interpreting():
        raise ValueError("TRITON_INTERPRET=1 is set; unset it to compile kernels")
    triton = import_triton()
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = launch.kernel.jitted()
    signature, divisible = {}, {}
    for place, name in enumerate(function.arg_names):
        default = "*bf16" if name.isupper() else "i32"
        signature[name] = "constexpr" if name in launch.constants else launch.types.get(name, default)
        if signature[name].startswith("*") or (signature[name] == "i32" and name not in ("num_heads", "group")):
            divisible[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, launch.constants, divisible)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    registers, spilled = _registers(compiled.asm["cubin"])
    found = len(re.findall(TENSOR_CORES[capability], compiled.asm["ptx"]))
    return Resources(launch.name, capability, registers, spilled, compiled.metadata.shared, found)


def _registers(cubin: bytes) -> tuple[int, int]:
    """Registers per thread and bytes spilled, as cuobjdump reads them from machine code."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]


def flash_launches() -> Iterator[Launch]:
    """FlashAttention in bf16 at head dimensions 64 and 128, causal and not; float32 at 64."""
    from cs336_systems.kernels import flash_attention_triton as flash

    kinds = [(64, "bf16", True), (64, "bf16", False), (128, "bf16", True), (64, "fp32", True)]
    for d, dtype, causal in kinds:
        size = {"bf16": 2, "fp32": 4}[dtype]
        same = dict.fromkeys(("Q", "K", "V", "O", "DO", "DK", "DV", "DQ"), f"*{dtype}")
        types = same | {"L": "*fp32", "DELTA": "*fp32", "scale": "fp32"}
        common = {"WIDTH": d, "D": d, "CAUSAL": causal, "PRECISION": "ieee"}
        tag = f"d={d} {dtype}" + " causal" * causal
        one = {"EVEN": True, "ONE_PASS": True}
        passes: tuple[tuple[str, Kernel, str, dict[str, Any], dict[str, str]], ...] = (
            ("flash_forward", flash.flash_forward, "forward", {}, {}),
            ("flash_backward_keys", flash.flash_backward_keys, "keys", {"EVEN": True, "ONE_PASS": False}, {}),
            ("flash_backward_one_pass", flash.flash_backward_keys, "one pass", one, {"DQ": "*fp32"}),
            ("flash_backward_queries", flash.flash_backward_queries, "queries", {}, {}),
        )  # fmt: skip
        for name, kernel, table, extra, other in passes:
            tiles = flash.tile_sizes(table, d, size)
            constants = common | extra | {"M": tiles.M, "N": tiles.N}
            yield Launch(
                f"{name} {tag}", kernel, constants, types | other, tiles.num_warps, tiles.num_stages, dtype == "bf16"
            )
    yield Launch(
        "flash_backward_delta d=64 bf16",
        flash.flash_backward_delta,
        {"WIDTH": 64, "D": 64, "M": 64},
        {"DELTA": "*fp32"},
    )


def row_launches() -> Iterator[Launch]:
    """The memory-bound kernels in bf16, at rows of 4096 (RMSNorm also at 1024 and 8192)."""
    from cs336_systems.kernels import cross_entropy, rmsnorm, softmax, swiglu, weighted_sum

    floats = dict.fromkeys(("R", "PARTIAL", "LSE", "LOSS", "SCALE"), "*fp32")
    types = floats | {"TARGETS": "*i64", "eps": "fp32", "z_loss": "fp32"}
    for width in (1024, 4096, rmsnorm.MAX_WIDTH):
        rows, columns, warps = rmsnorm.row_tile(width)
        tile = {"ROWS": rows, "COLUMNS": columns}
        for fused in (False, True):
            tag = f"width={width}" + " residual" * fused
            forward, backward = tile | {"HAS_RESIDUAL": fused}, tile | {"HAS_DH": fused}
            yield Launch(f"rms_norm_forward {tag}", rmsnorm.rms_norm_forward, forward, types, warps)
            yield Launch(f"rms_norm_backward {tag}", rmsnorm.rms_norm_backward, backward, types, warps)
    block = {"BLOCK": softmax.MAX_BLOCK}
    yield Launch("softmax_forward", softmax.softmax_forward, block, types)
    yield Launch("softmax_backward", softmax.softmax_backward, block, types)
    block = {"BLOCK": cross_entropy.MAX_BLOCK}
    yield Launch("cross_entropy_forward", cross_entropy.cross_entropy_forward, block, types)
    yield Launch("cross_entropy_backward", cross_entropy.cross_entropy_backward, block, types)
    block = {"BLOCK": swiglu.BLOCK}
    yield Launch("swiglu_forward", swiglu.swiglu_forward, block, types)
    yield Launch("swiglu_backward", swiglu.swiglu_backward, block, types)
    tile = {"ROWS": weighted_sum.ROWS, "COLUMNS": weighted_sum.COLUMNS}
    yield Launch("weighted_sum_forward", weighted_sum.weighted_sum_forward, tile, types)
    yield Launch("weighted_sum_backward", weighted_sum.weighted_sum_backward, tile, types)


def matmul_launches() -> Iterator[Launch]:
    """The matrix product in bf16 and float32, A and B with dense rows."""
    from cs336_systems.kernels import matmul

    for dtype, table in (("bf16", matmul.HALF_TILES), ("fp32", matmul.FLOAT_TILES)):
        tiles = dict(table)
        warps, stages = tiles.pop("num_warps"), tiles.pop("num_stages")
        constants: dict[str, Any] = tiles | {"PRECISION": "ieee", "a_column": 1, "b_column": 1}
        types = dict.fromkeys("ABC", f"*{dtype}")
        yield Launch(f"matmul {dtype}", matmul.matmul_kernel, constants, types, warps, stages, dtype == "bf16")


def launches() -> Iterator[Launch]:
    """Every kernel of this package, as it is launched for a large model."""
    yield from row_launches()
    yield from matmul_launches()
    yield from flash_launches()


def main() -> None:
    """Print one line per kernel."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, choices=sorted(SHARED_LIMIT))
    parser.add_argument("--kernel", action="append", help="only kernels whose name begins so; can be given again")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for launch in launches():
        if not launch.name.startswith(tuple(options.kernel or ("",))):
            continue
        resources = compile_launch(launch, options.capability)
        problems = resources.problems(launch)
        if options.json:
            print(json.dumps({**asdict(resources), "problems": problems}), flush=True)
            continue
        print(
            f"{launch.name:44s} {resources.registers:4d} registers  {resources.spilled_bytes:5d} B spilled  "
            f"{resources.shared_bytes:7d} B shared  {resources.tensor_core_instructions:3d} tensor-core instructions  "
            + ("; ".join(problems) or "ok"),
            flush=True,
        )


if __name__ == "__main__":
    main()

"""Kernels and Triton: measure, profile, fuse, and write your own.

Lecture 6 of the course: benchmarking and profiling, why fusion pays, GELU in CUDA and in Triton, reading PTX, occupancy,
softmax, sums over rows, and a tiled matrix product. Without a GPU the kernels run in Triton's interpreter, and what only
a GPU could show is recorded and labelled. It prepares assignment 2, problems `benchmarking_script`, `nsys_profile` and
`flash_forward`. Left out: FlashAttention itself (lecture 5). Read next: `lecture_07.py`.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported, which happens at the first launch

from cs336_basics.layers import Linear
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import gelu
from cs336_basics.runs.plots import plot_overlaid_curves, plot_values
from cs336_systems.flame_graph import flame_graph_svg
from cs336_systems.kernels.matmul import triton_matmul
from cs336_systems.kernels.softmax import SoftmaxTriton, softmax_reference
from cs336_systems.kernels.triton_kernel import kernel, tl
from cs336_systems.kernels.weighted_sum import WeightedSumTriton, weighted_sum_reference
from cs336_systems.profiling import function_rows, profile_step
from cs336_systems.timing import time_call
from lectures.content import Reference, exercise, note, plot, quiz, text
from lectures.lecture_05 import CountBytes

DATA = Path(__file__).parent / "data"
WORKS = {key: Reference(**work) for key, work in json.loads((DATA / "works.json").read_text(encoding="utf-8")).items()}
COMPILED = json.loads((DATA / "kernels_sm90.json").read_text(encoding="utf-8"))
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
TRITON = importlib.util.find_spec("triton") is not None
REGISTERS, WARPS = 65_536, 64  # registers of 32 bits, and warps, of one multiprocessor
CUDA_GELU = """
__global__ void gelu_kernel(const float* x, float* y, int total) {
    int at = blockIdx.x * blockDim.x + threadIdx.x;      // which element is mine?
    if (at < total) {                                     // the last block is not full
        float u = 0.79788456f * (x[at] + 0.044715f * x[at] * x[at] * x[at]);
        y[at] = x[at] / (1.0f + expf(-2.0f * u));
    }
}

torch::Tensor gelu(torch::Tensor x) {
    TORCH_CHECK(x.is_cuda() && x.is_contiguous());
    auto y = torch::empty_like(x);
    int block = 1024, grid = (x.numel() + block - 1) / block;
    gelu_kernel<<<grid, block>>>(x.data_ptr<float>(), y.data_ptr<float>(), x.numel());
    return y;
}
"""


def main():
    text("# Kernels and Triton")
    text("*Lecture 6: measure, profile, fuse, and write your own*")
    if not TRITON:
        text("**Triton is not installed here** (it exists for Linux): kernels below are replaced by PyTorch's own.")
    measuring()
    products()
    layers_and_steps()
    profiling()
    gelu_in_pieces()
    gelu_in_cuda()
    gelu_in_triton()
    reading_machine_code()
    occupancy()
    softmax_traffic()
    softmax_in_triton()
    sums_of_rows()
    product_with_relu()
    order_of_tiles()
    recorded()
    summary()


def measuring():
    text("## Measure first")
    text("""
        Guesses about speed are wrong more often than not. Two tools answer two questions: a **benchmark** says how long
        something takes, a **profile** says where the time goes. Three rules for benchmarks:

        1. **Warm up.** First calls compile, allocate and fill caches.
        2. **Wait.** A call to a GPU returns before the work is done; without `torch.cuda.synchronize()` one measures how
           fast Python hands out work.
        3. **Repeat**, and look at the spread, not only at the mean.
    """)
    a = torch.randn(256, 256)
    timing = time_call(lambda: a @ a, warmups=1, repeats=3)  # @inspect timing @stepover
    assert timing.p10_ms <= timing.median_ms <= timing.p90_ms and timing.count == 3
    text("""
        Everything timed in this lecture ran on the **CPU** of the machine that made this page, unless it says
        otherwise.
    """)
    exercise("Write a benchmark with warm-ups and synchronisation (`benchmarking_script`).", function=time_call,
             test="tests/unit/systems/test_benchmarking.py")  # fmt: skip


def products():
    text("### Matrix products: flat, then cubic")
    sizes = [8, 16, 32, 64, 128, 256, 512]
    points = []
    for n in sizes:  # @inspect n @every 3
        a, b = torch.randn(n, n), torch.randn(n, n)
        timing = time_call(lambda a=a, b=b: a @ b, warmups=2, repeats=5)  # @stepover
        points.append((n, timing.p10_ms))  # @inspect points
    assert points[-1][1] > points[0][1]
    cubic = [(n, points[-1][1] * (n / sizes[-1]) ** 3) for n in sizes]
    figure = plot_overlaid_curves({"measured": points, "cubic": cubic}, xlabel="n", ylabel="ms", logarithmic=True)
    figure.axes[0].set_xscale("log")
    plot(figure, alt="Time of an n x n product: nearly flat up to some dozens, then along the cubic line.")
    text("""
        $2n^3$ FLOPs say that half the size takes an eighth of the time. True for large $n$; below that, the cost of
        calling at all remains: a few microseconds, here as on a GPU. *Small operations are paid by
        the piece.*
    """)


def layers_and_steps():
    text("### A stack of layers")
    text("Time of a stack of square layers with ReLU, forward and backward; one number doubled at a time:")
    base = {"steps": 1, "layers": 2, "batch": 64, "width": 128}
    times = {"base": stack_ms(**base)}  # @stepover
    for name in base:  # @inspect name
        times[name + " x 2"] = stack_ms(**(base | {name: 2 * base[name]}))  # @inspect times @stepover
    factors = {name: ms / times["base"] for name, ms in times.items()}  # @inspect factors
    text("""
        Twice the steps, layers or batch are twice the FLOPs, twice the width four times. What is measured lies below
        where fixed costs are left over, for the batch for instance, and the first lesson of profiling is to notice it.
    """)


def stack_ms(*, steps, layers, batch, width):
    torch.manual_seed(0)
    stack = [Linear(width, width) for _ in range(layers)]
    x = torch.randn(batch, width)

    def work():
        for _ in range(steps):
            y = x
            for layer in stack:
                y = layer(y).relu()
            y.sum().backward()

    return time_call(work, warmups=2, repeats=7).p10_ms


def profiling():
    text("## Profile")
    text(
        "One training step of a small Transformer under PyTorch's profiler, the functions with the most time of their own:"
    )
    config = ModelConfig(vocab_size=256, context_length=64, d_model=64, num_layers=2, num_heads=4)  # @stepover
    profiler = profile_step(config, batch_size=4, device="cpu", warmups=1)  # @stepover
    rows = [row for row in function_rows(profiler) if row.name.startswith("aten::")]  # @stepover
    top = {row.name: row.calls for row in rows[:6]}  # @inspect top
    calls = sum(row.calls for row in rows)  # @inspect calls
    assert calls > 500
    text("""
        {calls:,} calls for one step of two layers! Some are made by others and some only make views, but on a GPU each
        that computes would be a kernel to launch. A flame graph shows the same by who called whom; `cs336 systems profile` makes both.
    """, calls=calls)  # fmt: skip
    text("**Kernel names tell what was chosen.** Two names of the kind that one finds in profiles:")
    names = ["sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1_execute_segment_k_off",
             "cutlass_80_simt_sgemm_256x128_8x4_tn_align1"]  # fmt: skip
    parts = [
        re.findall(r"sm\d+|cutlass_\d+|bf16|simt|sgemm|\d+x\d+(?:x\d+)?", name) for name in names
    ]  # @inspect parts
    assert "128x128x64" in parts[0] and "simt" in parts[1]
    text("""
        The first: written for compute capability 9.0, bfloat16 in, sums in float32, tiles of 128 x 128 with 64 along the
        inner axis. The second is a warning: *simt* means ordinary arithmetic, float32 without tensor cores.
    """)
    exercise("Profile your training step and find its most expensive kernel.", function=flame_graph_svg,
             test="tests/unit/systems/test_profiling.py")  # fmt: skip


def gelu_in_pieces():
    text("## Fusion: one GELU, four ways")
    text(r"""
        $$\text{GELU}(x) \approx \tfrac12 x \Big(1 + \tanh\big(\sqrt{2/\pi}\,(x + 0.044715\, x^3)\big)\Big)$$

        Written down as it is, in PyTorch, and as PyTorch's own function. How many kernels, and how many bytes?
    """)
    x = torch.randn(1 << 16)
    with CountBytes() as naive:  # @stepover
        written_out(x)  # @stepover
    with CountBytes() as builtin:  # @stepover
        own = torch.nn.functional.gelu(x, approximate="tanh")  # @stepover
    assert torch.allclose(written_out(x), own, atol=1e-6)
    kernels = {"written out": naive.operations, "built in": builtin.operations}  # @inspect kernels @stepover
    passes = {
        "written out": naive.bytes / (4 * x.numel()),
        "built in": builtin.bytes / (4 * x.numel()),
    }  # @inspect passes
    assert kernels == {"written out": 9, "built in": 1} and passes["built in"] == 2 and passes["written out"] == 21
    seconds = [
        time_call(lambda f=f: f(x), repeats=5).median_ms for f in (written_out, torch.nn.functional.gelu)
    ]  # @stepover
    ratio = seconds[0] / seconds[1]  # @inspect ratio
    text("""
        {many} kernels and {passes:.0f} passes over $n$ numbers, against 1 kernel and 2 passes. A GPU waits for memory
        in all of them, so there we expect about {expected:.1f} times; on this CPU, measured, {ratio:.1f}.
        `torch.compile` would find this fusion by itself and write a Triton kernel much like the one below. (It is not
        run here: on a CPU it needs a C++ compiler.)
    """, many=kernels["written out"], passes=passes["written out"], expected=21 / 2, ratio=ratio)  # fmt: skip
    quiz("Does fusion change the number of FLOPs?", "No. It removes reads and writes, which is where the time was.")


def written_out(x):
    cube = x * x * x
    inner = 0.79788456 * (x + 0.044715 * cube)
    return 0.5 * x * (1 + torch.tanh(inner))


def gelu_in_cuda():
    text("### In CUDA")
    text("In CUDA one writes what *one thread* does. Each thread finds its own element:")
    text(CUDA_GELU, verbatim=True)
    text("""
        `torch.utils.cpp_extension.load_inline` compiles it and makes it callable. **Not run here**: it needs a GPU and
        NVIDIA's compiler. The arithmetic can be checked all the same, with a loop over blocks and threads:
    """)
    x = torch.linspace(-4, 4, 10)
    y = torch.full_like(x, torch.nan)
    block, total = 4, len(x)
    grid = (total + block - 1) // block  # @inspect grid
    for block_index in range(grid):  # @inspect block_index
        for thread_index in range(block):  # @every 3
            at = block_index * block + thread_index  # @inspect at
            if at < total:
                u = 0.79788456 * (x[at] + 0.044715 * x[at] ** 3)
                y[at] = x[at] / (1 + torch.exp(-2 * u))  # @inspect y
    assert torch.allclose(y, torch.nn.functional.gelu(x, approximate="tanh"), atol=1e-6) and grid == 3
    text(r"""
        We used $\frac12 (1 + \tanh u) = \frac{1}{1 + e^{-2u}}$. **Trap:** the other common form,
        $\tanh u = \frac{e^{2u} - 1}{e^{2u} + 1}$, is infinity over infinity for large $u$:
    """)
    u = torch.tensor(50.0)
    bad = (torch.exp(2 * u) - 1) / (torch.exp(2 * u) + 1)  # @inspect bad
    good = 1 / (1 + torch.exp(-2 * u))  # @inspect good
    assert bad.isnan() and good == 1


@kernel
def gelu_kernel(X, Y, total, BLOCK: tl.constexpr):
    """y = GELU(x) for BLOCK numbers."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < total
    x = tl.load(X + at, mask=inside)
    u = 0.79788456 * (x + 0.044715 * x * x * x)
    tl.store(Y + at, x / (1 + tl.exp(-2 * u)), mask=inside)


def gelu_in_triton():
    text("### In Triton")
    text("""
        In Triton {tillet} one writes what *one block* does, with whole vectors; the compiler hands elements out to
        threads, orders memory accesses and manages shared memory. The kernel of this lecture, `gelu_kernel`:

        | | CUDA | Triton |
        |---|---|---|
        | unit of a program | thread | block |
        | memory access, shared memory, instructions within an SM | by hand | by the compiler |
        | blocks and their order | by hand | by hand |

        `X + at` is a block of 1024 addresses, `inside` masks those beyond the end.
    """, tillet=WORKS["tillet"])  # fmt: skip
    torch.manual_seed(0)
    x = torch.randn(3000)
    y = torch.full_like(x, torch.nan)
    programs = -(-len(x) // 1024)  # @inspect programs
    launch(gelu_kernel, programs, x, y)  # @stepover
    error = (y - torch.nn.functional.gelu(x, approximate="tanh")).abs().max()  # @inspect error
    exact = (y - gelu(x)).abs().max()  # @inspect exact @stepover
    assert error < 1e-6 and 1e-5 < exact < 1e-3
    text("""
        {programs} programs, {idle} lanes of the last one masked. The kernel agrees with PyTorch to {error:.0e}; the
        approximation by tanh itself is {exact:.0e} away from the exact GELU.
    """, programs=programs, idle=programs * 1024 - len(x), error=error, exact=exact)  # fmt: skip
    text("""
        **What the interpreter is for:** it runs the kernel's text with numpy, one program after the other, so prints
        and debuggers work. It says nothing about speed, hides races between programs, and computes bfloat16 wrongly,
        so our launches refuse that:
    """)
    if TRITON and not torch.cuda.is_available():
        try:
            SoftmaxTriton.apply(torch.zeros(2, 4, dtype=torch.bfloat16))  # @stepover
        except ValueError as error:
            refusal = str(error)  # @inspect refusal
        assert "bfloat16" in refusal
    exercise("Write a SwiGLU kernel, forward and backward.", test="tests/unit/systems/kernels/test_row_kernels.py")


def launch(kernel_function, programs, x, y):
    if TRITON:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        source, result = x.to(device), y.to(device)
        kernel_function[(programs,)](source, result, x.numel(), BLOCK=1024)
        y.copy_(result)
    else:
        y.copy_(torch.nn.functional.gelu(x, approximate="tanh"))


def reading_machine_code():
    text("## What the compiler made of it")
    text("""
        Triton carries its own assembler, so a kernel can be compiled for a GPU that is not there. Part of the PTX of
        `gelu_kernel`, **recorded** (Triton {triton}, for {chip}, {date}):
    """, triton=COMPILED["triton"], chip=COMPILED["compiled_for"], date=COMPILED["date"])  # fmt: skip
    ptx = COMPILED["gelu_ptx"]
    text("\n".join(ptx), verbatim=True)
    loads = [line for line in ptx if "ld.global.v4" in line]  # @inspect loads
    exponentials = sum("ex2" in line for line in ptx)  # @inspect exponentials
    per_thread = 4 * len(loads)  # @inspect per_thread
    assert per_thread == exponentials == 1024 // (32 * COMPILED["kernels"]["gelu"]["warps"]) == 8
    text(r"""
        - `ctaid.x` is the number of the block, `tid.x` that of the thread in it.
        - `@%p1 ld.global.v4` loads **four** numbers at once, 16 bytes, if the mask says so. A warp's 32 threads load 512
          bytes side by side: coalesced.
        - 4 warps of 32 threads share 1024 numbers, so each thread has 8 of them: two loads, eight exponentials
          (`ex2`: powers of *two*, which the hardware has; $e^x = 2^{x \log_2 e}$).
        - The two loads come before the arithmetic: both are under way at once.
    """)


def occupancy():
    text("## Occupancy")
    text("""
        A multiprocessor has 65,536 registers and room for 64 warps. How many blocks fit at once? With 128 threads of 160
        registers:
    """)
    blocks, share = fitting(registers=160, warps=4, shared_bytes=0)  # @inspect blocks share
    assert blocks == 3 and share == 12 / 64
    text("""
        {blocks} blocks, 12 warps of 64: an occupancy of {share:.2f}. Is that bad? Our kernels as compiled for an H100
        (**recorded**, as above; none spills registers to memory):
    """, blocks=blocks, share=share)  # fmt: skip
    lines = []
    for name, used in COMPILED["kernels"].items():  # @every 4
        blocks, share = fitting(
            used["registers"], used["warps"], used["shared_bytes"]
        )  # @inspect name blocks share @stepover
        lines.append(f"| {name} | {used['registers']} | {used['shared_bytes']:,} | {blocks} | {share:.1%} | "
                     f"{used['tensor_core_instructions']} |")  # fmt: skip
    assert not any(used["spilled_bytes"] for used in COMPILED["kernels"].values())
    text("| kernel | registers per thread | shared bytes | blocks per SM | occupancy | tensor-core instructions |\n"
         "|---|---|---|---|---|---|\n{rows}", rows="\n".join(lines))  # fmt: skip
    used = COMPILED["kernels"]["matmul bf16"]
    product = fitting(used["registers"], used["warps"], used["shared_bytes"])  # @inspect product @stepover
    assert product == (1, 8 / 64)
    text("""
        The matrix product and wide attention have the lowest occupancy and keep the tensor cores *busiest*: one block per
        SM, with a large tile of sums in registers and loads running ahead of the arithmetic. Occupancy hides waiting; a
        kernel that overlaps its loads itself needs little of it. For kernels that only stream through memory, more is
        better.
    """)


def fitting(registers, warps, shared_bytes):
    """Blocks of a kernel on one H100 multiprocessor, and the share of its warps; registers go in steps of 8 a thread."""
    by_registers = REGISTERS // (math.ceil(registers / 8) * 8 * 32 * warps)
    by_shared = 228 * 1024 // (shared_bytes + 1024)  # the system keeps 1 KB per block
    blocks = min(by_registers, by_shared, WARPS // warps, 32)
    return blocks, blocks * warps / WARPS


def softmax_traffic():
    text("## Softmax: count first")
    text(r"""
        For a matrix of $M$ rows and $N$ columns, step by step:

        | step | reads | writes |
        |---|---|---|
        | maximum of each row | $MN$ | $M$ |
        | subtract it | $MN + M$ | $MN$ |
        | exponentials | $MN$ | $MN$ |
        | sum of each row | $MN$ | $M$ |
        | divide by it | $MN + M$ | $MN$ |
        | **in all** | $5MN + 2M$ | $3MN + 2M$ |

        A fused kernel reads $MN$ and writes $MN$. PyTorch's operations, counted:
    """)
    rows, columns = 64, 256
    x = torch.randn(rows, columns)
    with CountBytes() as counted:  # @stepover
        by_steps(x)  # @stepover
    numbers = counted.bytes // 4  # @inspect numbers
    saved = numbers / (2 * rows * columns)  # @inspect saved
    assert numbers == 8 * rows * columns + 4 * rows and 4 < saved < 4.1
    text("The table is right: {numbers:,} numbers. Fusion should be worth a factor of {saved:.1f}.", numbers=numbers,
         saved=saved)  # fmt: skip


def by_steps(x):
    largest = x.amax(dim=1)
    shifted = x - largest[:, None]
    exponentials = shifted.exp()
    total = exponentials.sum(dim=1)
    return exponentials / total[:, None]


def softmax_in_triton():
    text("### One program per row")
    text("""
        If a row fits into the registers of a block, it can be loaded once and stored once. Columns are rounded up to a
        power of two, and what lies beyond is masked with *minus infinity*, which counts neither in the maximum nor in
        the sum. Our kernel takes rows of any length: it walks over the row by blocks and finds maximum and sum in one
        pass, as in lecture 5, then walks again (through the cache, if the row is not too long) and writes. {softmax}:
    """, softmax=SoftmaxTriton)  # fmt: skip
    torch.manual_seed(0)
    x = torch.randn(4, 300)
    y = SoftmaxTriton.apply(x) if TRITON else softmax_reference(x)  # @inspect y @stepover
    error = (y - by_steps(x)).abs().max()  # @inspect error
    assert error < 1e-6
    large = torch.tensor([[1e4, 1e4 - 1, float("-inf")]])
    safe = SoftmaxTriton.apply(large) if TRITON else softmax_reference(large)  # @inspect safe @stepover
    unsafe = large.exp() / large.exp().sum(dim=1, keepdim=True)  # @inspect unsafe
    assert unsafe.isnan().any() and math.isclose(safe[0, 0], 1 / (1 + math.exp(-1)), rel_tol=1e-6)
    text("**Trap:** fill with 0 instead of minus infinity, and every masked lane adds $e^{0 - m}$ to the sum.")
    exercise(
        "Write softmax as one kernel.", function=SoftmaxTriton, test="tests/unit/systems/kernels/test_row_kernels.py"
    )


def sums_of_rows():
    text("## Rows that are too long: walk along them")
    text(r"""
        $y_i = \sum_j x_{ij} w_j$. A program holds 16 rows and walks along the columns, 128 at a time, adding up in
        float32. Its backward pass holds a lesson: $dw_j = \sum_i dy_i x_{ij}$ is a sum over rows that *different
        programs* hold. They could add atomically to one place, in an order that changes from run to run; ours write
        partial sums, which are added afterwards, so results are the same bits every time.
    """)
    torch.manual_seed(0)
    x, w = torch.randn(20, 200, requires_grad=True), torch.randn(200, requires_grad=True)
    y = WeightedSumTriton.apply(x, w) if TRITON else weighted_sum_reference(x, w)  # @inspect y @stepover
    y.square().sum().backward()  # @stepover
    gradient = w.grad  # @inspect gradient
    by_hand = (2 * y.detach()) @ x.detach()  # @inspect by_hand
    assert torch.allclose(y, x @ w, atol=1e-4) and torch.allclose(gradient, by_hand, atol=1e-3)
    large, small = torch.tensor(1e8), torch.tensor(1.0)
    order = [((large + small) - large).item(), ((large - large) + small).item()]  # @inspect order
    assert order == [0, 1]
    text("And the order does matter: three numbers, added in two orders, give 0 and 1.")
    exercise("Write the weighted sum with both gradients, then read its kernel.", function=WeightedSumTriton,
             test="tests/unit/systems/kernels/test_row_kernels.py")  # fmt: skip


@kernel
def matmul_relu(A, B, C, inner, columns, TILE: tl.constexpr):
    """One TILE x TILE tile of ReLU(A B); all sizes are multiples of TILE."""
    steps = tl.arange(0, TILE)
    rows = tl.program_id(0) * TILE + steps
    cols = tl.program_id(1) * TILE + steps
    total = tl.zeros((TILE, TILE), dtype=tl.float32)
    for start in range(0, inner, TILE):
        a = tl.load(A + rows[:, None] * inner + (start + steps)[None, :])
        b = tl.load(B + (start + steps)[:, None] * columns + cols[None, :])
        total = tl.dot(a, b, total, input_precision="ieee")
    tl.store(C + rows[:, None] * columns + cols[None, :], tl.maximum(total, 0.0))


def product_with_relu():
    text("## A matrix product, and ReLU for free")
    text("""
        `matmul_relu` above is the whole of it: a program computes one tile of $C$, walks along the inner axis, and keeps
        its sums in registers. Since the tile is there already, ReLU costs one comparison and *no* memory traffic:
        activations, biases and scales belong into this **epilogue**.
    """)
    torch.manual_seed(0)
    a, b = torch.randn(32, 48), torch.randn(48, 64)
    c = torch.full((32, 64), torch.nan)
    grid = (32 // 16, 64 // 16)  # @inspect grid
    if TRITON:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        on_device = [t.to(device) for t in (a, b, c)]  # @stepover
        matmul_relu[grid](*on_device, 48, 64, TILE=16)  # @stepover
        c = on_device[2].cpu()
    else:
        c = (a @ b).relu()
    error = (c - (a @ b).clamp(min=0)).abs().max()  # @inspect error
    assert error < 1e-4
    text("`tl.dot` is what becomes tensor-core instructions. The real one has masks, strides and other tiles:")
    exercise("Write a matrix product for any size and stride.", function=triton_matmul,
             test="tests/unit/systems/kernels/test_row_kernels.py")  # fmt: skip
    text(
        "**Trap:** `rows * inner` is computed in 32 bits. From 2,147,483,648 elements on it overflows: cast to `int64`."
    )
    first_bad = 2**31 // 16_384  # @inspect first_bad
    assert first_bad == 131_072
    text("For logits of width 16,384 that is row {row:,}: a batch of 32 texts of 4096 tokens.", row=first_bad)
    assert 32 * 4096 == first_bad


def order_of_tiles():
    text("### Which tile first?")
    text("""
        132 programs run at once, and the L2 cache gives a tile of $A$ or $B$ to all who want it about the same time. $C$
        has 64 x 64 tiles. How many different rows of tiles of $A$ and columns of tiles of $B$ do programs 0 to 131
        need, in plain order and in bands of 8?
    """)
    needed = {}
    for group in (1, 8, 16):  # @inspect group
        tiles = [place(program, group, 64, 64) for program in range(132)]  # @inspect tiles @stepover
        needed[group] = len({row for row, _ in tiles}) + len({column for _, column in tiles})  # @inspect needed
    assert needed == {1: 67, 8: 25, 16: 25}
    assert sorted(place(p, 8, 64, 64) for p in range(64 * 64)) == [
        (i, j) for i in range(64) for j in range(64)
    ]  # @stepover
    text("""
        {plain} strips without groups (3 rows and all 64 columns), {grouped} with groups of 8. The bytes from memory fall
        by the same factor, {factor:.1f}, with one line of integer arithmetic.
    """, plain=needed[1], grouped=needed[8], factor=needed[1] / needed[8])  # fmt: skip


def place(program, group, rows, columns):
    band, within = divmod(program, group * columns)
    height = min(rows - band * group, group)
    return band * group + within % height, within // height


def recorded():
    text("## What fusion buys, recorded")
    result = json.loads((RESULTS / "generation.json").read_text(encoding="utf-8"))
    rows = {name: row["ms_per_step"] for name, row in result["rows"].items()}  # @inspect rows
    plot(plot_values([name.replace(" ", "\n", 1) for name in rows], {"ms per token": list(rows.values())},
                     ylabel="ms per token"),
         alt="Bars: compiled decoding steps take about as long as the matrix products alone, plain steps nearly twice.")  # fmt: skip
    products, plain, compiled = (
        rows[name] for name in ("matrix products alone", "ours, plain", "ours, compiled steps")
    )  # @inspect products, plain, compiled
    assert products < plain and compiled < plain
    text("""
        Decoding with this library's model on a machine with {cpus} CPU cores, measured {date}
        (`benchmarks/results/generation.json`; the first bar is another library's). One token is one small
        matrix-vector product after the other: {products:.1f} ms of them. With an operation of PyTorch for each line of
        the model, everything between the products brings the step to {plain:.1f} ms; compiled into one piece of code,
        it takes {compiled:.1f} ms. What lay between the products has all but gone.
    """, cpus=result["environment"]["cpu_count"], date=result["measured"],
         products=products, plain=plain, compiled=compiled)  # fmt: skip
    gpu = RESULTS / "gpu_kernels.json"
    if gpu.is_file():
        found = json.loads(gpu.read_text(encoding="utf-8"))
        text("On a {gpu}, {date}: copy {copy:.0f} GB/s, matrix product {rate:.0f} TFLOP/s; the rest is in `gpu_kernels.json`.",
             gpu=found["gpu"], date=found["measured"], copy=found["copy_gb_per_s"], rate=found["matmul_tflops"])  # fmt: skip
    else:
        text(
            "No results from a GPU are recorded in this repository yet: `make bench-gpu` on such a machine makes them."
        )
    note("If a GPU is at hand, run `python benchmarks/bench_gpu_kernels.py --only swiglu` now.")


def summary():
    text("## What to take home")
    text("""
        - Benchmark with warm-ups, synchronisation and repeats; profile to find out where time goes.
        - Count kernels and bytes before you write one: the count predicts the gain.
        - CUDA says what a thread does, Triton what a block does; masks guard the edges.
        - Look at what came out: registers, spills, wide loads, tensor-core instructions.
        - Fuse the epilogue, order tiles for the cache, keep sums in float32 and in a fixed order.
    """)
    text("*Next: more than one GPU.*")


if __name__ == "__main__":
    main()

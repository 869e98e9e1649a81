"""GPUs: how they work, and six ways to keep them busy.

Lecture 5 of the course: multiprocessors, warps, the memory hierarchy, coalescing, banks, tiling, fusion, recomputation,
low precision, waves, and FlashAttention. Everything is simulated by counting or measured on the CPU. It prepares
assignment 2, problems `flash_forward`, `benchmarking_mixed_precision` and `pytorch_attention`. Left out: how kernels
are written (lecture 6). Read next: `lecture_06.py`.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cs336_basics.layers import rms_norm
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_systems.kernels.flash_attention import FlashAttentionPyTorch, attention_reference
from cs336_systems.kernels.matmul import tiled_matmul, triton_matmul
from cs336_systems.kernels.rmsnorm import RMSNormPyTorch
from cs336_systems.kernels.softmax import SoftmaxPyTorch
from cs336_systems.mixed_precision import accumulation_results
from cs336_systems.parallel.checkpointing_plan import best_layers_per_checkpoint, plan_every, simulate_plan
from cs336_systems.roofline import Peaks, measure_peaks
from cs336_systems.timing import time_call
from lectures.content import Reference, exercise, graph, make_graph, note, plot, quiz, text

DATA = Path(__file__).parent / "data"
WORKS = {key: Reference(**work) for key, work in json.loads((DATA / "works.json").read_text(encoding="utf-8")).items()}
CHIPS = json.loads((DATA / "gpus.json").read_text(encoding="utf-8"))
WARP, LINE, SECTOR, BANKS = 32, 128, 32, 32  # threads; bytes; bytes; banks of 4 bytes


def main():
    text("# GPUs")
    text("*Lecture 5: how they work, and six ways to keep them busy*")
    throughput()
    anatomy()
    divergence()
    the_roof()
    coalescing()
    traversal()
    banks()
    tiling()
    tiles_together()
    fusion()
    recomputation()
    low_precision()
    waves()
    softmax_in_one_pass()
    flash_attention()
    summary()


def throughput():
    text("## Throughput instead of latency")
    text("""
        A CPU core does everything to finish *one* thread soon: large caches, prediction of branches, instructions
        out of order. A GPU spends its transistors on arithmetic and hides waiting differently: while one group of
        threads waits for memory, it runs another. So it needs a great many of them. How many? By Little's law
        {little}, what is under way equals rate times delay. Say a read from the memory of an H100 takes 600 ns:
    """, little=WORKS["little"])  # fmt: skip
    bytes_under_way = 3.35e12 * 600e-9  # @inspect bytes_under_way
    lines_per_sm = bytes_under_way / 132 / LINE  # @inspect lines_per_sm
    assert 2.0e6 < bytes_under_way < 2.1e6 and 118 < lines_per_sm < 120
    text("""
        Two megabytes must be under way at any time, {lines:.0f} lines of 128 bytes per multiprocessor, or memory is
        not used fully. With one line per warp and instruction, all 64 warps of a multiprocessor need two loads each
        in flight. *That* is why a GPU wants tens of thousands of threads.
    """, lines=lines_per_sm)  # fmt: skip


def anatomy():
    text("## The parts")
    text("""
        - A **thread** runs the kernel's code on its own registers.
        - 32 threads form a **warp**: they carry out the same instruction at the same time.
        - Warps form a **block** (in Triton: a program). A block stays on one multiprocessor and shares its fast memory.
        - Blocks form the **grid**. They run in any order and, as a rule, cannot wait for each other.
        - A **streaming multiprocessor** (SM) runs several blocks at once.
    """)
    nodes = [
        {"data": {"id": name, "label": label}, "position": {"x": x, "y": y}}
        for name, label, x, y in [
            ("reg", "registers: per thread", 90, 25),
            ("sh", "shared memory: per SM", 90, 75),
            ("l2", "L2 cache: all SMs", 90, 125),
            ("hbm", "HBM: the GPU's memory", 90, 175),
        ]
    ]
    pairs = [("reg", "sh"), ("sh", "l2"), ("l2", "hbm")]
    edges = [{"data": {"source": a, "target": b}} for a, b in pairs]
    graph(
        make_graph(nodes, edges, width=360, height=200), alt="Registers, shared memory, L2 cache and HBM in a column."
    )
    text(
        "Three chips, from their makers' papers {a}, {h}, {b} (TFLOP/s are dense):",
        a=WORKS["a100"],
        h=WORKS["h100"],
        b=WORKS["b200"],
    )
    rows = "\n".join(
        f"| {name} | {c['sms']} | {c['shared_kb']} KB | {c['l2_mb']} MB | {c['memory_gb']} GB | {c['tb_s']} TB/s | "
        f"{c['bf16']:,} |"
        for name, c in CHIPS.items()
    )
    text("| chip | SMs | shared memory per SM | L2 | memory | bandwidth | bf16 TFLOP/s |\n|---|---|---|---|---|---|---|\n"
         "{rows}", rows=rows)  # fmt: skip
    chip = CHIPS["H100"]  # @inspect chip
    registers = chip["sms"] * 256 / 1024  # @inspect registers
    shared = chip["sms"] * chip["shared_kb"] / 1024  # @inspect shared
    assert registers == 33.0 and 29 < shared < 30
    text("""
        Each SM has 256 KB of registers besides. All registers of an H100 together, {registers:.0f} MB, are *more*
        than its {shared:.0f} MB of shared memory, and its memory is 1600 times the L2 cache. Each step down is larger
        and slower; the art of this lecture is to go down rarely.
    """, registers=registers, shared=shared)  # fmt: skip
    assert chip["memory_gb"] * 1000 / chip["l2_mb"] == 1600


def divergence():
    text("### Trap: a warp has one program counter")
    text("If threads of a warp take different branches, the warp walks through both, and masks who takes part:")
    thread = np.arange(WARP)
    costs = {"if": 10, "else": 30}
    half = warp_time(thread < 16, costs)  # @inspect half
    one = warp_time(thread < 31, costs)  # @inspect one
    none = warp_time(thread < 32, costs)  # @inspect none
    assert (half, one, none) == (40, 40, 10)
    text(
        "One thread that differs costs as much as sixteen. Branches that whole warps take together cost nothing extra."
    )
    note("Newer chips give threads program counters of their own, but the branches still run one after the other.")


def warp_time(condition, costs):
    return costs["if"] * bool(condition.any()) + costs["else"] * bool((~condition).any())


def the_roof():
    text("## The roof")
    text(r"""
        An operation that does $I$ FLOPs per byte moved can reach at most $\min(\text{peak}, I \cdot
        \text{bandwidth})$ {williams}. The two meet at the ridge, peak over bandwidth:
    """, williams=WORKS["williams"])  # fmt: skip
    ridges = {
        name: Peaks(c["bf16"] * 1e12, c["tb_s"] * 1e12).ridge for name, c in CHIPS.items()
    }  # @inspect ridges @stepover
    assert 152 < ridges["A100"] < 154 and 295 < ridges["H100"] < 296 and 281 < ridges["B200"] < 282
    text("""
        An H100 must do {h100:.0f} FLOPs with every byte. Arithmetic grew faster than bandwidth for many years; from
        H100 to B200 both grew about as much. And this machine, in float32, measured:
    """, h100=ridges["H100"])  # fmt: skip
    here = measure_peaks(
        torch.device("cpu"), torch.float32, size=512, copy_bytes=1 << 26, repeats=2
    )  # @inspect here @stepover
    ridge = here.ridge  # @inspect ridge
    assert ridge > 1
    text(
        "{flops:,.0f} GFLOP/s, {bandwidth:.0f} GB/s, a ridge of {ridge:.0f}: a smaller machine of the same kind.",
        flops=here.flops / 1e9, bandwidth=here.bandwidth / 1e9, ridge=ridge,
    )  # fmt: skip
    text(
        "Six tricks follow. Five move fewer bytes, or move them better; one (waves) keeps all multiprocessors at work."
    )
    exercise("Measure your machine's roof and the operations of a block below it.", function=measure_peaks,
             test="tests/unit/systems/test_roofline.py")  # fmt: skip


def coalescing():
    text("## Trick 1: neighbours read neighbours")
    text("""
        Memory answers in lines of 128 bytes, made of four sectors of 32. When a warp executes a load, the hardware
        looks which sectors its 32 addresses fall into, and fetches each once. We simulate just that:
    """)
    thread = np.arange(WARP)
    side_by_side = transactions(4 * thread)  # @inspect side_by_side
    moved_by_one = transactions(4 * thread + 4)  # @inspect moved_by_one
    every_second = transactions(8 * thread)  # @inspect every_second
    column = transactions(4 * 4096 * thread)  # @inspect column
    same = transactions(0 * thread)  # @inspect same
    assert side_by_side == (1, 4) and moved_by_one == (2, 5) and every_second == (2, 8)
    assert column == (32, 32) and same == (1, 1)
    text("""
        (lines, sectors) for float32. Side by side: one line, all of it used. Down a column of a matrix with 4096
        columns: 32 lines, of each of which 4 bytes are used and at least 32 are moved: an eighth of the bandwidth.
    """)
    strides = range(1, 41)
    used = {
        unit: [(s, WARP * 4 / (count * size)) for s in strides for count in [transactions(4 * s * thread)[place]]]
        for place, (unit, size) in enumerate([("lines of 128 bytes", LINE), ("sectors of 32 bytes", SECTOR)])
    }  # @stepover
    plot(
        plot_overlaid_curves(
            used, xlabel="distance between neighbouring threads, in floats", ylabel="bytes used / moved"
        ),
        alt="Share of the moved bytes that are used, over the stride: it falls from one to 1/32 by lines, 1/8 by sectors.",
    )
    assert used["sectors of 32 bytes"][-1][1] == 1 / 8 and used["lines of 128 bytes"][-1][1] == 1 / 32
    text("**Rule:** the index that moves fastest from thread to thread must be the last axis in memory.")
    quiz(
        "Each thread sums one row of a matrix, element after element. Is that coalesced?",
        """
        No: at each step the 32 threads read 32 different rows, a column. Let the warp sum one row together instead,
        or let threads walk down columns.
        """,
    )


def transactions(addresses):  # @inspect addresses
    lines = np.unique(addresses // LINE)  # @inspect lines
    sectors = np.unique(addresses // SECTOR)
    return len(lines), len(sectors)


def traversal():
    text("### The same effect on a CPU")
    text("A CPU has cache lines too, of 64 bytes. Add up a matrix of 32 MB by rows and by columns:")
    matrix = np.ones((2048, 4096), dtype=np.float32)  # @inspect matrix
    by_rows = time_call(lambda: [row.sum() for row in matrix], warmups=1, repeats=3)  # @stepover
    by_columns = time_call(lambda: [column.sum() for column in matrix.T], warmups=1, repeats=3)  # @stepover
    rows_ms, columns_ms = by_rows.p10_ms, by_columns.p10_ms  # @inspect rows_ms columns_ms
    assert columns_ms > rows_ms
    text("""
        {slower:.0f} times as long for the same additions, on the machine that made this page. (Not all of it is
        the cache: numpy also adds neighbours with vector instructions.)
    """, slower=columns_ms / rows_ms)  # fmt: skip


def banks():
    text("### And in shared memory: banks")
    text("""
        Shared memory has 32 banks; the word (of 4 bytes) with number $n$ lies in bank $n \\bmod 32$. Each bank serves
        one word at a time: if threads of a warp want different words of one bank, they queue. A tile of 32 x 32:
    """)
    thread = np.arange(WARP)
    row = conflict(thread)  # @inspect row
    column = conflict(32 * thread)  # @inspect column
    padded = conflict(33 * thread)  # @inspect padded
    swizzled = conflict(32 * thread + (thread ^ 5))  # @inspect swizzled
    assert (row, column, padded, swizzled) == (1, 32, 1, 1)
    text("""
        A column of the tile lies in one bank: 32 rounds. Two remedies: **pad** rows to 33 words, or **swizzle**, that
        is, keep element $(i, j)$ at column $i \\oplus j$ (exclusive or), which spreads rows *and* columns over all
        banks and wastes nothing. Here column 5 is read.
    """)
    everywhere = {conflict(32 * thread + (thread ^ j)) for j in range(32)}  # @stepover
    rows_too = {conflict(32 * i + (i ^ thread)) for i in range(32)}  # @stepover
    assert everywhere == rows_too == {1}


def conflict(words):  # @inspect words
    distinct = np.unique(words)
    queue = np.bincount(distinct % BANKS, minlength=BANKS)  # @inspect queue
    return int(queue.max())


def tiling():
    text("## Trick 2: tiles")
    text(r"""
        For $C = AB$ with $M \times K$ and $K \times N$, the plain program reads a row of $A$ and a column of $B$ for
        each of $MN$ results: $2MNK$ reads. Instead let a block compute a $T \times T$ tile of $C$: it fetches a tile
        of $A$ and one of $B$ into shared memory, and uses each number $T$ times before it fetches the next pair:

        $$\frac{M}{T} \cdot \frac{N}{T} \cdot \frac{K}{T} \cdot 2T^2 = \frac{2MNK}{T} \text{ reads.}$$
    """)
    a = np.arange(8.0 * 12).reshape(8, 12)
    b = np.cos(np.arange(12.0 * 8)).reshape(12, 8)
    c, reads = matmul_by_tiles(a, b, 4)
    assert np.allclose(c, a @ b) and reads == 2 * 8 * 8 * 12 / 4
    counts = {tile: matmul_by_tiles(a, b, tile)[1] for tile in (1, 2, 4)}  # @inspect counts @stepover
    assert counts == {1: 1536, 2: 768, 4: 384}
    text("The same in PyTorch, as a kernel would do it, with accumulation in float32: {f}.", f=tiled_matmul)
    exercise("Write a tiled matrix product in Triton.", function=triton_matmul,
             test="tests/unit/systems/kernels/test_row_kernels.py")  # fmt: skip


def matmul_by_tiles(a, b, tile):  # @inspect tile
    (rows, inner), columns = a.shape, b.shape[1]
    c, reads = np.zeros((rows, columns)), 0
    for i in range(0, rows, tile):
        for j in range(0, columns, tile):  # @every 2
            for k in range(0, inner, tile):  # @every 3
                left, right = a[i : i + tile, k : k + tile], b[k : k + tile, j : j + tile]  # @inspect left
                reads += left.size + right.size  # @inspect reads
                c[i : i + tile, j : j + tile] += left @ right  # @inspect c
    return c, reads


def tiles_together():
    text("### How large must a tile be?")
    text(r"""
        In 16 bits, a block does $2T^2$ FLOPs for every $2T$ numbers of 2 bytes, that is $T/2$ FLOPs per byte. To reach
        the ridge of an H100 one would need
    """)
    needed = math.ceil(2 * Peaks(989.5e12, 3.35e12).ridge)  # @inspect needed @stepover
    accumulator_kb = needed**2 * 4 / 1024  # @inspect accumulator_kb
    assert needed == 591 and accumulator_kb > 5 * 256
    text("""
        $T$ = {needed}, whose results alone take {kb:,.0f} KB in float32 where an SM has 256 KB of registers. It works
        all the same, because blocks that run *at the same time* want the same tiles: the second finds them in the L2
        cache. With tiles of 128 x 128 and 132 SMs arranged as 12 x 11 tiles, all of them together are one large tile:
    """, needed=needed, kb=accumulator_kb)  # fmt: skip
    m, n = 12 * 128, 11 * 128  # @inspect m n
    together = 2 * m * n / (2 * (m + n))  # @inspect together
    row_of_tiles = 2 * 128 * 132 * 128 / (2 * (128 + 132 * 128))  # @inspect row_of_tiles
    assert row_of_tiles < 128 < 295 < together
    text("""
        {together:.0f} FLOPs per byte of HBM, well above the ridge; if they stood in one long row instead, {row:.0f}.
        This is why kernels visit the tiles of $C$ in groups. (The L2 cache, of course, must be fast enough too.)
    """, together=together, row=row_of_tiles)  # fmt: skip
    text("**Trap: sizes that are not multiples of the tile.** One row and column more than 4096, tiles of 128:")
    waste = (math.ceil(4097 / 128) / (4097 / 128)) ** 2 - 1  # @inspect waste
    assert 0.06 < waste < 0.07
    text("""
        {waste:.1%} of the work is for nothing. Worse, rows of 4097 numbers of 2 bytes begin at odd places, so that
        loads of 16 bytes at once are impossible. Pad vocabularies and widths to multiples of 64 or 128.
    """, waste=waste)  # fmt: skip


class CountBytes(TorchDispatchMode):
    """Counts the operations that torch runs and the bytes of the tensors that they read and write."""

    def __init__(self):
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = {x.data_ptr(): x for x in (*args, result) if isinstance(x, torch.Tensor)}  # x * x reads x once
        if result.data_ptr() != args[0].data_ptr():  # views move nothing
            self.operations += 1
            self.bytes += sum(x.numel() * x.element_size() for x in tensors.values())
        return result


def fusion():
    text("## Trick 3: fuse")
    text("""
        Each operation of PyTorch is a kernel of its own: it reads its inputs from memory and writes its result back,
        only for the next one to read it again. Count for RMSNorm, written as in lecture 3:
    """)
    x, gain = torch.randn(512, 1024), torch.ones(1024)
    with CountBytes() as counted:  # @stepover
        rms_norm(x, gain)  # @stepover
    operations, passes = counted.operations, counted.bytes / (4 * x.numel())  # @inspect operations passes
    assert operations >= 6 and 6.5 < passes < 8
    text("""
        {operations} kernels move {passes:.1f} times the bytes of $x$. A fused kernel reads $x$ once and writes the
        result once, **2**: it is {faster:.1f} times as fast, although it computes the same. A compiler such as
        `torch.compile` finds chains of this kind by itself.
    """, operations=operations, passes=passes, faster=passes / 2)  # fmt: skip
    exercise("Write RMSNorm as one kernel, forward and backward.", function=RMSNormPyTorch,
             test="tests/test_rmsnorm.py")  # fmt: skip


def recomputation():
    text("## Trick 4: compute again")
    text(r"""
        If arithmetic is cheap and memory dear, do not store what can be computed again. Take $y =
        \sigma(\sigma(\sigma(x)))$ as one fused kernel. The backward pass needs the three results
        ($\sigma' = \sigma (1 - \sigma)$). Reads and writes per number:

        | | forward reads | forward writes | backward reads | backward writes | in all |
        |---|---|---|---|---|---|
        | store all | $x$ | $s_1, s_2, y$ | $s_1, s_2, y, dy$ | $dx$ | 9 |
        | compute again | $x$ | $y$ | $x, dy$ | $dx$ | 5 |
    """)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)  # @inspect x
    y = x.sigmoid().sigmoid().sigmoid()  # @inspect y
    y.sum().backward()
    by_hand = gradient_from_input(x.detach())  # @inspect by_hand
    assert torch.allclose(by_hand, x.grad)
    text("5 instead of 9 accesses, for three sigmoids more. FlashAttention's backward pass will do exactly this.")
    text("The same idea at another scale saves room instead of time: keep one layer's input in every few (lecture 2).")
    best = best_layers_per_checkpoint(64, input_bytes=1, residual_bytes=10)  # @inspect best @stepover
    cost = simulate_plan(plan_every(64, best), input_bytes=1, residual_bytes=10)  # @inspect cost @stepover
    whole = simulate_plan(plan_every(64, 64), input_bytes=1, residual_bytes=10)  # @inspect whole @stepover
    assert cost.peak_bytes < whole.peak_bytes / 5
    exercise("Find the best number of layers per checkpoint.", function=best_layers_per_checkpoint,
             test="tests/unit/systems/test_activation_checkpointing.py")  # fmt: skip


def gradient_from_input(x):
    s1 = x.sigmoid()
    s2 = s1.sigmoid()
    y = s2.sigmoid()
    return y * (1 - y) * s2 * (1 - s2) * s1 * (1 - s1)


def low_precision():
    text("## Trick 5: fewer bits")
    text("""
        Half the bits are half the bytes, so everything limited by memory becomes twice as fast; and tensor cores do
        twice the arithmetic with half the bits. An H100's dense TFLOP/s by format, and what rounding costs: the
        relative error of a product of two random matrices whose *inputs* are rounded, sums being kept in float32.
    """)
    rates = {
        "tf32": CHIPS["H100"]["tf32"],
        "bf16": CHIPS["H100"]["bf16"],
        "fp8": CHIPS["H100"]["fp8"],
    }  # @inspect rates
    assert 1.99 < rates["bf16"] / rates["tf32"] < 2.01 and rates["fp8"] == 2 * rates["bf16"]
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(256, 256, generator=generator), torch.randn(256, 256, generator=generator)
    errors = {}
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):  # @inspect dtype
        product = a.to(dtype).float() @ b.to(dtype).float()  # @stepover
        errors[str(dtype)[6:]] = ((product - a @ b).norm() / (a @ b).norm()).item()  # @inspect errors
    assert errors["float16"] < errors["bfloat16"] / 4 and errors["bfloat16"] < errors["float8_e4m3fn"] / 8
    text("""
        Each bit of fraction halves the error: {fp16:.2%} with 10 bits, {bf16:.1%} with 7, {fp8:.1%} with 3. Inputs may be
        rounded; sums may not:
    """, fp16=errors["float16"], bf16=errors["bfloat16"], fp8=errors["float8_e4m3fn"])  # fmt: skip
    sums = accumulation_results()  # @inspect sums @stepover
    exercise("Explain these four sums of a thousand times 0.01.", function=accumulation_results,
             test="tests/unit/systems/test_roofline.py")  # fmt: skip


def waves():
    text("## Trick 6: mind the last wave")
    text(r"""
        Blocks are handed out to SMs, one or a few each, and when all are done the next ones start. With one block per
        SM, $b$ blocks on $S$ SMs take $\lceil b / S \rceil$ waves, and the share of SM time in use is

        $$\frac{b}{S \lceil b / S \rceil}.$$
    """)
    at_132, at_133 = utilisation(132, 132), utilisation(133, 132)  # @inspect at_132 at_133
    assert at_132 == 1 and 0.50 < at_133 < 0.51
    blocks = range(4, 601, 4)
    curves = {
        f"{name}, {c['sms']} SMs": [(n, utilisation(n, c["sms"])) for n in blocks] for name, c in CHIPS.items()
    }  # @stepover
    plot(plot_overlaid_curves(curves, xlabel="blocks", ylabel="share of SM time in use"),
         alt="Saw-tooth curves: utilisation rises to one at each multiple of the number of SMs and drops after it.")  # fmt: skip
    text("So a matrix product may become slower in a jump. On an A100, with tiles of 256 x 128:")
    before = math.ceil(1792 / 256) * math.ceil(1792 / 128)  # @inspect before
    after = math.ceil(1793 / 256) * math.ceil(1793 / 128)  # @inspect after
    times = [math.ceil(count / 108) for count in (before, after)]  # @inspect times
    assert (before, after, times) == (98, 120, [1, 2])
    text("""
        1792 x 1792 needs {before} blocks, one wave; 1793 x 1793 needs {after}, two waves: half the speed for one more
        row. Remedies: smaller tiles, many waves, or *persistent* kernels, which start one block per SM and let it
        loop over tiles; splitting the sum over $k$ makes more blocks where there are too few.
    """, before=before, after=after)  # fmt: skip


def utilisation(blocks, multiprocessors):
    return blocks / (multiprocessors * math.ceil(blocks / multiprocessors))


def softmax_in_one_pass():
    text("## All tricks at once: FlashAttention")
    text(r"""
        Attention makes a $T \times T$ matrix of scores, takes a softmax along its rows, and multiplies with the
        values. Tiles are easy for the two products. But softmax needs the maximum and the sum of a *whole row* before
        the first weight is known. Does it? {milakov}: keep, for the part of the row seen so far,

        $$m = \max_j s_j, \qquad l = \sum_j e^{s_j - m}, \qquad o = \sum_j e^{s_j - m} v_j.$$

        For two parts, with $m = \max(m_1, m_2)$, both sums are brought to the common maximum:

        $$l = e^{m_1 - m} l_1 + e^{m_2 - m} l_2, \qquad o = e^{m_1 - m} o_1 + e^{m_2 - m} o_2,$$

        and at the end the result is $o / l$.
    """, milakov=WORKS["milakov"])  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    scores, values = 5 * torch.randn(12, generator=generator), torch.randn(12, 2, generator=generator)
    state = part_of(scores[:4], values[:4])
    for start in (4, 8):
        state = merge(state, part_of(scores[start : start + 4], values[start : start + 4]))
    largest, total, weighted = state
    online = weighted / total  # @inspect online
    expected = torch.softmax(scores, dim=0) @ values  # @inspect expected
    error = (online - expected).abs().max()  # @inspect error
    assert error < 1e-6 and largest == scores.max()
    parts = [part_of(scores[i : i + 4], values[i : i + 4]) for i in (0, 4, 8)]  # @stepover
    one, other = merge(merge(*parts[:2]), parts[2]), merge(parts[0], merge(*parts[1:]))  # @stepover
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(one, other, strict=True))
    text("""
        Exact, to rounding. And since merging is associative, parts may be merged in any grouping: this also splits
        one row over several SMs (decoding) or several machines (ring attention).
    """)
    exercise("Write softmax by blocks.", function=SoftmaxPyTorch,
             test="tests/unit/systems/kernels/test_row_kernels.py")  # fmt: skip


def part_of(scores, values):  # @inspect scores
    m = scores.max()
    weights = torch.exp(scores - m)  # @inspect weights
    return m, weights.sum(), weights @ values


def merge(first, second):
    (m1, l1, o1), (m2, l2, o2) = first, second
    m = torch.maximum(m1, m2)
    shrink1, shrink2 = torch.exp(m1 - m), torch.exp(m2 - m)  # @inspect shrink1 shrink2
    return m, shrink1 * l1 + shrink2 * l2, shrink1 * o1 + shrink2 * o2


def flash_attention():
    text("### The whole algorithm")
    text("""
        A block keeps a tile of queries with its $m, l, o$ on the chip and walks over tiles of keys and values {dao}.
        No score is ever written to memory; the backward pass computes them again from $Q$, $K$ and one number per
        row, $L = m + \\log l$.
    """, dao=WORKS["dao"])  # fmt: skip
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 256, 64, requires_grad=True) for _ in range(3))
    flash = FlashAttentionPyTorch.apply(q, k, v, True)  # @inspect flash @stepover
    flash.square().sum().backward()  # @stepover
    gradient, q.grad = q.grad, None  # @inspect gradient
    plain, _ = attention_reference(q, k, v, True)  # @inspect plain @stepover
    plain.square().sum().backward()  # @stepover
    assert torch.allclose(flash, plain, atol=1e-6) and torch.allclose(gradient, q.grad, atol=1e-5)
    text("Numbers moved per head for 4096 tokens of width 64, forward, with queries in tiles of 128:")
    tokens, d, tile = 4096, 64, 128
    standard = 4 * tokens * d + 4 * tokens**2  # scores written and read, weights written and read  # @inspect standard
    fused = 2 * tokens * d + tokens // tile * 2 * tokens * d  # @inspect fused
    least = 4 * tokens * d  # @inspect least
    assert 3.9 < standard / fused < 4.0 and fused == 17 * least - least // 2
    text(r"""
        Without fusion, $Q, K, V$ are read and $O$ written, and $S$ and $P$ are both written and read:
        $4Td + 4T^2$. The fused form reads $Q$ and writes $O$ once and reads $K$ and $V$ once per tile of queries:
        $2Td + 2T^2 d / 128$, that is {ratio:.1f} times less. That is not all: tiles of $K$ and $V$ which several
        blocks read about the same time come from the L2 cache, and nothing of size $T^2$ has to be *stored*, which for
        one head and batch of one in 16 bits would be
    """, ratio=standard / fused)  # fmt: skip
    stored_mb = 2 * tokens**2 / 1e6  # @inspect stored_mb
    assert 33 < stored_mb < 34
    text("""
        {mb:.0f} MB. Tiling, fusion and recomputation in one kernel: with the backward pass the FLOPs are *more* than before,
        and the time is several times less.
    """, mb=stored_mb)  # fmt: skip
    exercise("Write FlashAttention forward and backward (`flash_forward`, `flash_backward`).",
             function=FlashAttentionPyTorch, test="tests/test_attention.py")  # fmt: skip
    quiz(
        "Causal attention: which tiles need no work at all, and which need a mask?",
        """
        Tiles of keys wholly behind the tile of queries are skipped, which is half of all; only those on the diagonal
        need a mask. Half the work can be saved, if the longer and shorter rows of tiles are spread over the SMs well.
        """,
    )


def summary():
    text("## What to take home")
    text("""
        - A GPU hides waiting by having very many threads; it is fast only at what many can do alike.
        - Arithmetic is cheap, bytes from memory are dear: know the roof.
        - Read neighbours together, keep banks apart, work on tiles, fuse, compute again, use fewer bits.
        - Count the waves: performance has jumps.
        - FlashAttention is all of it, exact.
    """)
    text("*Next: how to write such kernels.*")


if __name__ == "__main__":
    main()

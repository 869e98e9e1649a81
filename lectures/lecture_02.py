"""Tensors, and where their memory and time go.

Lecture 2 of the course: number formats, views and copies, FLOPs, arithmetic intensity, and one training run with
all its costs counted. It prepares assignment 1, problems `transformer_accounting`, `adamw_accounting` and
`training_together`. Left out: kernels and GPUs (lectures 5 and 6). Read next: `lecture_03.py`.
"""

import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from einops import einsum, rearrange, reduce
from torch.utils.flop_counter import FlopCounterMode

from cs336_basics.accounting import forward_flops, parameter_counts, training_memory_bytes
from cs336_basics.checkpoint import load_checkpoint, save_checkpoint
from cs336_basics.corpora.stdlib_source import stdlib_files
from cs336_basics.data import get_batch
from cs336_basics.layers import Linear
from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import SGD, AdamW
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_systems.mixed_precision import accumulation_results, autocast_dtypes
from lectures.content import Reference, exercise, note, plot, quiz, text

MICIKEVICIUS = Reference(title="Mixed Precision Training", authors=["Paulius Micikevicius", "Sharan Narang"],
                         date="2018", url="https://arxiv.org/abs/1710.03740")  # fmt: skip
WILLIAMS = Reference(title="Roofline: An Insightful Visual Performance Model for Multicore Architectures", date="2009",
                     authors=["Samuel Williams", "Andrew Waterman", "David Patterson"])  # fmt: skip
GLOROT = Reference(title="Understanding the Difficulty of Training Deep Feedforward Neural Networks", date="2010",
                   authors=["Xavier Glorot", "Yoshua Bengio"])  # fmt: skip
CHEN = Reference(title="Training Deep Nets with Sublinear Memory Cost", date="2016",
                 authors=["Tianqi Chen", "Bing Xu"], url="https://arxiv.org/abs/1604.06174")  # fmt: skip
MICRON = 1e-6

H100_FLOPS = 989.5e12  # bfloat16, dense, per second, by its data sheet
H100_BANDWIDTH = 3.35e12  # bytes per second


def main():
    text("# Where memory and time go")
    text("*Lecture 2: tensors, and how to count before you run*")
    two_questions()
    number_formats()
    rounding_adds_up()
    views_and_copies()
    named_axes()
    counting_flops()
    the_backward_pass()
    arithmetic_intensity()
    initial_weights()
    memory_of_training()
    gradient_accumulation()
    activation_checkpointing()
    a_training_run()
    mixed_precision()
    summary()


def two_questions():
    text("## Two questions that can be answered on a napkin")
    text("""
        Training a large model costs millions. Before anybody starts, they ask: how long will it take, and will it
        fit? Both can be answered with a few multiplications, and doing so is a habit worth having.
    """)
    text("**How long does it take to train a model of 70 billion parameters on 15 trillion tokens with 1024 H100s?**")
    total_flops = 6 * 70e9 * 15e12  # @inspect total_flops
    flops_per_day = H100_FLOPS * 0.5 * 1024 * 86_400  # @inspect flops_per_day
    days = total_flops / flops_per_day  # @inspect days
    assert 143 < days < 145
    text("""
        About {days:.0f} days. The 6 will be derived below; the 0.5 is the share of the peak that good code reaches,
        called **model FLOPs utilisation** (MFU).
    """, days=days)  # fmt: skip
    text("**What is the largest model that can be trained with AdamW on 8 H100s of 80 GB, without tricks?**")
    bytes_per_parameter = 4 + 4 + (4 + 4)  # weight, gradient, two moments
    largest = 8 * 80e9 / bytes_per_parameter  # @inspect bytes_per_parameter largest
    assert largest == 40e9
    text("""
        Everything in float32 takes 16 bytes per parameter, so {largest:.0f} billion parameters. With weights and
        gradients in bfloat16 it is 12 bytes and {half:.0f} billion. Activations are not in it: they depend on batch
        and length.
    """, largest=largest / 1e9, half=8 * 80 / 12)  # fmt: skip


def number_formats():
    text("## Numbers and their bytes")
    text("""
        | format | bits | exponent | fraction | largest | smallest normal |
        |---|---|---|---|---|---|
        | float32 | 32 | 8 | 23 | 3.4e38 | 1.2e-38 |
        | float16 | 16 | 5 | 10 | 65,504 | 6.1e-5 |
        | bfloat16 | 16 | 8 | 7 | 3.4e38 | 1.2e-38 |
        | float8 E4M3 | 8 | 4 | 3 | 448 | 0.016 |
        | float8 E5M2 | 8 | 5 | 2 | 57,344 | 6.1e-5 |
    """)
    formats = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
    largest = {str(f).removeprefix("torch."): torch.finfo(f).max for f in formats}  # @inspect largest
    assert largest["float16"] == 65_504 and largest["float8_e4m3fn"] == 448 and largest["float8_e5m2"] == 57_344
    text("The exponent gives the range, the fraction the precision. A small number in float16 vanishes:")
    small16 = torch.tensor(1e-8, dtype=torch.float16)  # @inspect small16
    small_bf16 = torch.tensor(1e-8, dtype=torch.bfloat16)  # @inspect small_bf16
    assert small16 == 0 and small_bf16 != 0
    text(
        "bfloat16 has the range of float32 and gives up precision instead. Neural networks mind that less: two or "
        "three digits."
    )
    one = torch.tensor(1.0, dtype=torch.bfloat16) + 0.001  # @inspect one
    assert one == 1.0
    text("One matrix of the feed-forward layer of GPT-3 in float32:")
    matrix = torch.empty(12_288, 4 * 12_288, device="meta")  # @inspect matrix
    mebibytes = matrix.numel() * matrix.element_size() / 2**20  # @inspect mebibytes
    assert mebibytes == 2304
    text(
        "{mebibytes:,.0f} MiB, for one matrix of one layer. (A tensor on the device `meta` has a shape but no memory.)",
        mebibytes=mebibytes,
    )


def rounding_adds_up():
    text("### Trap: sums in low precision")
    text("Adding 0.01 a thousand times should give 10. The precision of the *sum* matters, not that of the terms:")
    results = accumulation_results()  # @inspect results @stepover
    text(
        "So matrix products of 16-bit numbers accumulate in float32, and so do softmax, norms and losses in our "
        "library."
    )
    exercise(
        "Explain each of the four results. Which of the errors comes from 0.01 itself, which from the sum?",
        function=accumulation_results,
    )


def views_and_copies():
    text("## A tensor is a pointer and a recipe")
    text(
        "A tensor is memory plus a rule how to find an element: **strides** say how far to move in memory for one step"
        " along each axis."
    )
    x = torch.arange(6.0).reshape(2, 3)  # @inspect x
    strides = x.stride()  # @inspect strides
    assert strides == (3, 1)
    text("Transposing, slicing and `view` change the rule and not the memory. The panel marks names of one memory:")
    y = x.T  # @inspect y
    row = x[1]  # @inspect row
    assert y.data_ptr() == x.data_ptr() and y.stride() == (1, 3)
    text("So a change through one name is seen through all:")
    x[1, 0] = 100
    assert y[0, 1] == 100 and row[0] == 100
    text(
        "The transposed tensor is no longer *contiguous*: rows do not lie one after another. To flatten it, memory "
        "must be copied:"
    )
    contiguous = y.is_contiguous()  # @inspect contiguous
    flat = y.contiguous().view(6)  # @inspect flat
    assert not contiguous and flat.data_ptr() != x.data_ptr()
    x[0, 0] = -1
    assert flat[0] == 0
    text(
        "`flat` did not change: it is a copy. Views are free, copies cost memory and time; operations on elements "
        "always make new tensors."
    )
    quiz(
        "Is `x + 0` a view of `x`?",
        "No. It is computed element by element into new memory, although the values are the same.",
    )


def named_axes():
    text("## Axes with names")
    text(
        "`x.transpose(-2, -1)` says nothing about meaning. With `einops`, axes have names and the code explains itself:"
    )
    queries = torch.randn(2, 3, 4)  # batch, query, d
    keys = torch.randn(2, 5, 4)  # batch, key, d
    scores = einsum(queries, keys, "batch query d, batch key d -> batch query key")  # @inspect scores
    assert torch.allclose(scores, queries @ keys.transpose(-2, -1), atol=MICRON)
    text("Axes that are named on the left only are summed over. `reduce` and `rearrange` do the rest:")
    mean = reduce(scores, "batch query key -> batch query", "mean")  # @inspect mean
    heads = rearrange(
        torch.arange(12.0).view(1, 2, 6), "batch seq (heads d) -> batch heads seq d", heads=2
    )  # @inspect heads
    assert mean.shape == (2, 3) and heads.shape == (1, 2, 2, 3)
    exercise(
        "Write the multi-head attention of assignment 1 with `rearrange` and `einsum` only.", test="tests/test_model.py"
    )


def counting_flops():
    text("## Counting FLOPs")
    text(r"""
        The product of a $B \times D$ with a $D \times K$ matrix has $BK$ results, each a sum of $D$ products: $D$
        multiplications and $D$ additions,

        $$\text{FLOPs} = 2BDK.$$

        Everything else in a Transformer (norms, activations, softmax) is small beside its matrix products.
    """)
    b, d, k = 256, 512, 1024
    x, w = torch.randn(b, d), torch.randn(d, k)
    flops = 2 * b * d * k  # @inspect flops
    with FlopCounterMode(display=False) as counter:  # @stepover
        _ = x @ w  # @stepover
    counted = counter.get_total_flops()  # @inspect counted
    assert counted == flops
    text("PyTorch's own counter agrees. Now the time, the best of five, on the machine that made this page:")
    seconds = min(seconds_of(lambda: x @ w) for _ in range(5))  # @inspect seconds @stepover
    rate = flops / seconds / 1e9  # @inspect rate
    text("""
        {rate:.0f} GFLOP/s on a CPU. An H100 promises {h100:,.0f} TFLOP/s in bfloat16, and reaching half of it is
        good. MFU compares what the *model* needs with what the *hardware* promises, so work that is done twice does
        not count.
    """, rate=rate, h100=H100_FLOPS / 1e12)  # fmt: skip
    note("On a GPU, time only after torch.cuda.synchronize(): calls return before the work is done.")


def seconds_of(work):
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def the_backward_pass():
    text("### The backward pass costs twice the forward pass")
    text(r"""
        For $Y = XW$ the backward pass gets $\partial L/\partial Y$ and computes two products of the same size:

        $$\frac{\partial L}{\partial W} = X^\top \frac{\partial L}{\partial Y}, \qquad
        \frac{\partial L}{\partial X} = \frac{\partial L}{\partial Y}\, W^\top.$$
    """)
    x = torch.randn(8, 16, requires_grad=True)
    w1 = torch.randn(16, 32, requires_grad=True)
    w2 = torch.randn(32, 4, requires_grad=True)
    with FlopCounterMode(display=False) as counter:  # @stepover
        hidden = x @ w1
        loss = (hidden @ w2).square().sum()  # @inspect loss
        forward = counter.get_total_flops()  # @inspect forward
        loss.backward()
        backward = counter.get_total_flops() - forward  # @inspect backward
    assert backward == 2 * forward
    text("Check one gradient by hand, with names for the axes:")
    d_output = 2 * (hidden @ w2).detach()
    by_hand = einsum(hidden.detach(), d_output, "batch hidden, batch out -> hidden out")
    error = (by_hand - w2.grad).abs().max()  # @inspect error
    assert error < 1e-3 * w2.grad.abs().max()
    text(r"""
        So one training step on $D$ data points with $N$ parameters costs $2ND$ forward and $4ND$ backward: **$6ND$
        in all.** That was the 6 on the napkin.
    """)
    config = ModelConfig(vocab_size=32_000, context_length=2048, d_model=4096, num_layers=32, num_heads=32, d_ff=11_008)
    parameters = sum(parameter_counts(config).values())  # @inspect parameters
    exact = 3 * sum(forward_flops(config).values()) / config.context_length
    ratio = exact / (6 * parameters)  # @inspect ratio
    assert 1.0 < ratio < 1.2
    text("""
        For a Transformer the rule leaves out the scores of attention and counts the embedding table, which
        multiplies nothing. For this 7-billion-parameter model with 2048 tokens of context the exact number is
        {ratio:.2f} times the rule's.
    """, ratio=ratio)  # fmt: skip
    exercise(
        "Derive the FLOPs of each part of a Transformer.",
        function=forward_flops,
        test="tests/unit/basics/test_accounting.py",
    )


def arithmetic_intensity():
    text("## Is it the arithmetic, or the memory?")
    text("""
        A processor must fetch numbers before it can compute. **Arithmetic intensity** is the FLOPs done per byte
        moved. A machine has one as well: the FLOPs it can do in the time in which it moves a byte.
    """)
    machine = H100_FLOPS / H100_BANDWIDTH  # @inspect machine
    assert 294 < machine < 296
    text(
        "An operation with less than the machine's {machine:.0f} FLOPs per byte waits for memory {williams}. In "
        "bfloat16:",
        machine=machine,
        williams=WILLIAMS,
    )
    n = 1024
    intensities = {
        "relu of n numbers": n / (2 * n + 2 * n),
        "dot product": (2 * n - 1) / (2 * 2 * n + 2),
        "matrix times vector": n * (2 * n - 1) / (2 * n * n + 2 * n + 2 * n),
        "matrix times matrix": n * n * (2 * n - 1) / (3 * 2 * n * n),
    }  # @inspect intensities
    assert intensities["relu of n numbers"] == 0.25 and abs(intensities["matrix times matrix"] - n / 3) < 1
    text("""
        Only the product of two large matrices is worth the machine. Decoding one token at a time multiplies
        matrices with vectors: it uses a third of a percent of the arithmetic. This is why inference servers decode
        many requests together, and why kernels are *fused*: each pass over memory that is saved is time saved.
    """)
    sizes = [2**i for i in range(4, 14)]
    attained = [(s, min(1.0, s / 3 / machine)) for s in sizes]
    plot(
        plot_overlaid_curves(
            {"product of two n x n matrices": attained}, xlabel="n", ylabel="share of peak arithmetic at best"
        ),
        alt="A curve: the attainable share of peak rises with the size of the matrices and is one from n = 886 on.",
    )
    threshold = math.ceil(3 * machine)  # @inspect threshold
    assert threshold == 887
    quiz(
        "GELU does about 20 FLOPs per number where ReLU does 1. Is it 20 times slower?",
        "No. Both wait for memory: intensities of about 5 and 0.25 are far below 295, so they take the same time.",
    )


def initial_weights():
    text("## How large should weights be at the start?")
    text(r"With weights of variance 1, each output is a sum of $d$ terms and grows like $\sqrt{d}$:")
    d = 2048
    x = torch.randn(64, d)
    large = x @ torch.randn(d, 64)  # @inspect large
    scaled = x @ (torch.randn(d, 64) / math.sqrt(d))  # @inspect scaled
    assert 0.9 < large.std() / math.sqrt(d) < 1.1 and 0.9 < scaled.std() < 1.1
    text("""
        Dividing by the root of the number of inputs keeps the size, layer after layer. {glorot} take the mean of
        inputs and outputs, so that gradients keep their size too; the course does the same, and cuts the normal
        distribution at three sigma to be safe from outliers.
    """, glorot=GLOROT)  # fmt: skip
    layer = Linear(d, d)  # @stepover
    weight = layer.weight  # @inspect weight
    assert abs(weight.std() * math.sqrt(d) - 1) < 0.02
    exercise("Write `Linear` with this initialization.", function=Linear, test="tests/test_model.py")


def memory_of_training():
    text("## Will it fit?")
    text("Training holds four things at once. Counted by formula and then measured, for a small Transformer:")
    config = ModelConfig(vocab_size=256, context_length=64, d_model=64, num_layers=4, num_heads=4, d_ff=192)
    parts = training_memory_bytes(config, batch_size=8)  # @inspect parts
    model = TransformerLM(config)  # @stepover
    optimizer = AdamW(model.parameters())  # @stepover
    tokens = torch.randint(256, (8, 65))
    kept = activations_kept(
        lambda: cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).backward()
    )  # @inspect kept @stepover
    optimizer.step()  # @stepover
    weights = sum(p.numel() * p.element_size() for p in model.parameters())  # @inspect weights
    moments = sum(
        t.numel() * 4 for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t)
    )  # @inspect moments
    assert weights == parts["weights"] and moments == parts["AdamW moments"] == 2 * weights
    assert 0.5 < kept / parts["activations"] < 2
    text("""
        Weights and moments agree to the byte. Of the activations, PyTorch kept {kept:.1f} MB for the backward pass
        where the formula says {formula:.1f} MB: it depends on what each operation chooses to save.
    """, kept=kept / 1e6, formula=parts["activations"] / 1e6)  # fmt: skip
    exercise(
        "Derive the memory of one AdamW step.",
        function=training_memory_bytes,
        test="tests/unit/basics/test_accounting.py",
    )


def activations_kept(work):
    seen = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(seen.values())


def gradient_accumulation():
    text("### Too large a batch? Add up gradients")
    text("The gradient of a mean is the mean of gradients, so a batch can be cut into pieces that fit:")
    model = Linear(8, 1)  # @stepover
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    (model(x) - y).square().mean().backward()  # @stepover
    whole = model.weight.grad.clone()  # @inspect whole
    model.zero_grad()
    for part_x, part_y in zip(x.chunk(4), y.chunk(4), strict=True):  # @stepover
        ((model(part_x) - part_y).square().mean() / 4).backward()  # @stepover
    pieces = model.weight.grad  # @inspect pieces
    assert torch.allclose(whole, pieces, atol=MICRON)
    text("**Trap:** forget the division by 4 and the learning rate is, in effect, four times as large.")


def activation_checkpointing():
    text("### Too many activations? Compute them again")
    text(r"""
        Of $L$ layers, keep the activations of every $k$-th only, and compute the others again when the backward
        pass needs them {chen}. One then holds $L/k$ kept ones and the $k$ of the stretch at hand:
    """, chen=CHEN)  # fmt: skip
    num_layers = 64
    held = {k: num_layers // k + k for k in (1, 2, 4, 8, 16, 32, 64)}  # @inspect held
    best = min(held, key=held.get)  # @inspect best
    assert best == math.isqrt(num_layers) and held[best] == 2 * math.isqrt(num_layers)
    text(
        r"The best is every $\sqrt{L}$-th layer: memory for {held} layers instead of 64, for one more forward pass, "
        "a third more FLOPs.",
        held=held[best],
    )


def a_training_run():
    text("## All of it in one training run")
    text(
        "The data lies in a file that is *mapped* into memory: only what is read is loaded, so it may be larger than "
        "the memory."
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.bin"
        path.write_bytes(b"".join(p.read_bytes() for p in stdlib_files()[:40])[:300_000])  # @stepover
        tokens = np.memmap(path, dtype=np.uint8, mode="r")  # @inspect tokens
        x, y = get_batch(tokens, 4, 16, "cpu", generator=torch.Generator().manual_seed(0))  # @inspect x y @stepover
        assert torch.equal(x[:, 1:], y[:, :-1])
        text("The targets are the inputs moved by one. Two optimizers, the same model, the same batches:")
        losses = {"AdamW": train(tokens, AdamW, 3e-3), "SGD": train(tokens, SGD, 3e-1)}
        resume_exactly(folder)
    plot(
        plot_overlaid_curves(losses, xlabel="step", ylabel="loss, nats per byte"),
        alt="Two falling curves of training loss; that of AdamW falls faster than that of SGD.",
    )
    final = {name: curve[-1][1] for name, curve in losses.items()}  # @inspect final
    assert final["AdamW"] < final["SGD"] < math.log(256)
    text("""
        A guess at random has a loss of {chance:.2f} nats per byte. After 45 steps AdamW is at {adamw:.2f}, SGD at
        {sgd:.2f}.
    """, chance=math.log(256), adamw=final["AdamW"], sgd=final["SGD"])  # fmt: skip


def train(tokens, optimizer_class, learning_rate):  # @inspect optimizer_class learning_rate
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = TransformerLM(
        ModelConfig(vocab_size=256, context_length=64, d_model=64, num_layers=2, num_heads=4)
    )  # @stepover
    optimizer = optimizer_class(model.parameters(), lr=learning_rate)  # @stepover
    curve = []
    for step in range(45):  # @inspect step @every 15
        x, y = get_batch(tokens, 8, 64, "cpu", generator=generator)  # @stepover
        loss = cross_entropy(model(x), y)  # @inspect loss @stepover
        optimizer.zero_grad()  # @stepover
        loss.backward()  # @stepover
        optimizer.step()  # @stepover
        curve.append((step, loss.item()))
    return curve


def resume_exactly(folder):
    text(
        "A checkpoint holds weights, the state of the optimizer *and* the step. Without the moments of AdamW, the run "
        "would stumble:"
    )
    model = Linear(4, 4)  # @stepover
    optimizer = AdamW(model.parameters())  # @stepover
    model(torch.ones(4)).sum().backward()  # @stepover
    optimizer.step()  # @stepover
    save_checkpoint(model, optimizer, 1, Path(folder) / "checkpoint.pt")  # @stepover
    other = Linear(4, 4)  # @stepover
    fresh = AdamW(other.parameters())  # @stepover
    step = load_checkpoint(Path(folder) / "checkpoint.pt", other, fresh)  # @inspect step @stepover
    assert step == 1 and torch.equal(other.weight, model.weight)
    exercise(
        "Write `save_checkpoint` and `load_checkpoint`.", function=save_checkpoint, test="tests/test_serialization.py"
    )


def mixed_precision():
    text("## Mixed precision")
    text("""
        Matrix products in 16 bits are several times as fast and take half the memory. What must be precise stays in
        float32: master weights, moments, sums {micikevicius}. `torch.autocast` chooses by operation:
    """, micikevicius=MICIKEVICIUS)  # fmt: skip
    chosen = autocast_dtypes("cpu", torch.bfloat16)  # @inspect chosen @stepover
    text("""
        float16 needs one thing more: its range is so small that gradients vanish, so the loss is multiplied by a
        large number before the backward pass and gradients are divided by it after. bfloat16 does without, which is
        why it won.
    """)
    quiz(
        "Why are inference weights stored in 8 or 4 bits, while training stays at 16?",
        """
        Training adds up millions of tiny updates, which vanish beside a weight of low precision. A finished weight
        is only read, and the network forgives rounding it once.
        """,
    )


def summary():
    text("## What to take home")
    text(r"""
        - Time: $6ND$ FLOPs, divided by peak and MFU. Memory: 16 bytes per parameter with AdamW in float32, plus
          activations.
        - Tensors are views of memory until something forces a copy.
        - Large matrix products use the arithmetic; everything else waits for memory.
        - Numbers have a range and a precision: sum in float32.
        - Count first, then measure, and explain the difference.
    """)
    text("*Next: the architecture, and what each choice in it buys.*")


if __name__ == "__main__":
    main()

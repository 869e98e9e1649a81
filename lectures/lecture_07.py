"""Many devices: what to cut, what to send, and what it costs.

Lecture 7 of the course: collectives and their price, data parallelism, sharded state (ZeRO, FSDP), pipelines, tensor,
sequence and expert parallelism, and how to combine them, all counted or simulated on one CPU. It prepares assignment
2, problems `communication_accounting`, `optimizer_state_sharding_accounting` and the calculations of 2026. Left out:
real processes (lecture 8). Read next: `lecture_08.py`.
"""

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as functional
from matplotlib.figure import Figure

from cs336_basics.accounting import parameter_counts
from cs336_basics.model_config import ModelConfig
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.plots import COLOURS, plot_overlaid_curves
from cs336_systems.parallel import communication_accounting as accounting
from cs336_systems.parallel.context_parallel import attention_work, ring_attention
from cs336_systems.parallel.ddp import DDP
from cs336_systems.parallel.fsdp import FSDP
from cs336_systems.parallel.pipeline_schedule import bubble_fraction, gpipe_schedule, simulate
from cs336_systems.parallel.pipeline_schedule import one_forward_one_backward_schedule as schedule_1f1b
from cs336_systems.parallel.process_group import clip_sharded_gradients
from cs336_systems.parallel.ring_all_reduce import alternate_ring_all_reduce, ring_all_reduce
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer
from cs336_systems.parallel.tensor_parallel import tensor_parallel
from lectures.content import Reference, exercise, plot, quiz, text


def paper(title, authors, date, number):
    return Reference(title=title, authors=authors.split(", "), date=date, url=f"https://arxiv.org/abs/{number}")


H100_SHEET = Reference(title="NVIDIA H100 Tensor Core GPU Datasheet", organization="NVIDIA", date="2023")
PATARASUK = Reference(title="Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", date="2009",
                      authors=["Pitch Patarasuk", "Xin Yuan"])  # fmt: skip
RAJBHANDARI = paper("ZeRO: Memory Optimizations Toward Training Trillion Parameter Models",
                    "Samyam Rajbhandari, Jeff Rasley, Olatunji Ruwase, Yuxiong He", "2020", "1910.02054")  # fmt: skip
HUANG = paper("GPipe: Efficient Training of Giant Neural Networks using Pipeline Parallelism",
              "Yanping Huang, Youlong Cheng", "2019", "1811.06965")  # fmt: skip
NARAYANAN = paper("Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM",
                  "Deepak Narayanan, Mohammad Shoeybi", "2021", "2104.04473")  # fmt: skip
SHOEYBI = paper("Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism",
                "Mohammad Shoeybi, Mostofa Patwary", "2019", "1909.08053")  # fmt: skip
KORTHIKANTI = paper("Reducing Activation Recomputation in Large Transformer Models",
                    "Vijay Korthikanti, Jared Casper", "2022", "2205.05198")  # fmt: skip
LEPIKHIN = paper("GShard: Scaling Giant Models with Conditional Computation and Automatic Sharding",
                 "Dmitry Lepikhin, HyoukJoong Lee", "2020", "2006.16668")  # fmt: skip
LLAMA3 = paper("The Llama 3 Herd of Models", "Aaron Grattafiori, Abhimanyu Dubey", "2024", "2407.21783")

H100_FLOPS, H100_BYTES = 989.5e12, 80e9  # bfloat16 without sparsity, per second; memory
NVLINK, INFINIBAND = 450e9, 50e9  # bytes per second out of one GPU, in one direction
SEVEN_BILLION = ModelConfig(vocab_size=32_000, context_length=4096, d_model=4096, num_layers=32, num_heads=32,
                            d_ff=11_008)  # fmt: skip
LAYER = accounting.FeedForwardWork(batch_tokens=4_000_000, d_model=4096, d_ff=11_008, flops_per_s=H100_FLOPS,
                                   bytes_per_s=INFINIBAND)  # fmt: skip


def main():
    text("# Many devices")
    text("*Lecture 7: what to cut, what to send, and what it costs*")
    why_many()
    collectives()
    the_ring()
    the_price_of_a_message()
    data_parallelism()
    when_does_it_hide()
    sharding_the_state()
    elementwise_updates()
    pipelines()
    tensor_parallelism()
    activation_memory()
    long_sequences()
    experts()
    combining()
    summary()


def why_many():
    text("## Two reasons for a second device")
    text("""
        Take a small model, by today's standards, of the shape of LLaMA 7B, and train it in mixed precision with AdamW:
        bfloat16 weights and gradients, and in float32 a master copy and two moments.
    """)
    parameters = sum(parameter_counts(SEVEN_BILLION).values())  # @inspect parameters
    each = {"weight": 2, "gradient": 2, "master copy": 4, "moments": 4 + 4}  # @inspect each
    total = parameters * sum(each.values()) / 1e9  # @inspect total
    assert sum(each.values()) == 16 and total > H100_BYTES / 1e9
    years = 6 * parameters * 2e12 / (0.4 * H100_FLOPS) / (365 * 86_400)  # @inspect years
    assert 6 < years < 7
    text("""
        **It does not fit:** {total:.0f} GB of state, before a single activation, on a device of 80 GB. **It takes too
        long:** two trillion tokens at 40 % utilisation are {years:.1f} years on one H100.
    """, total=total, years=years)  # fmt: skip
    text("""
        We need many devices, for their memory and for their arithmetic. What they lack is nearness. Of one H100
        {sheet}, in bytes per second:

        | between | bytes per second |
        |---|---|
        | a GPU and its memory | 3,350 billion |
        | two GPUs of one server (NVLink 4, each direction) | 450 billion |
        | two servers (InfiniBand, 400 Gbit/s per GPU) | 50 billion |
    """, sheet=H100_SHEET)  # fmt: skip
    idle_flops = H100_FLOPS / INFINIBAND  # @inspect idle_flops
    text("""
        While one byte crosses to another server, the GPU could do {slow:,.0f} floating-point operations. **All of
        parallelism is one question: what do we cut so that little has to travel, and can it travel while we compute?**
    """, slow=idle_flops)  # fmt: skip


def collectives():
    text("## A vocabulary of seven words")
    text("""
        Processes are numbered: each has a **rank**, and their number is the **world size**. They do not send letters to
        each other one by one; they call *collectives*, in which all take part. Three ranks, a vector each:
    """)
    ranks = [np.array([1, 2, 3]), np.array([10, 20, 30]), np.array([100, 200, 300])]  # @inspect ranks
    broadcast = [ranks[0] for _ in ranks]  # @inspect broadcast
    scatter = [ranks[0][i : i + 1] for i in range(3)]  # @inspect scatter
    gather = [np.concatenate([part[:1] for part in ranks]), None, None]  # @inspect gather
    reduce = [sum(ranks), None, None]  # @inspect reduce
    text("In these four, one rank gives or receives. The next three are symmetric, and training uses them:")
    all_gather = [np.concatenate(scatter) for _ in ranks]  # @inspect all_gather
    reduce_scatter = [sum(ranks)[i : i + 1] for i in range(3)]  # @inspect reduce_scatter
    all_reduce = [sum(ranks) for _ in ranks]  # @inspect all_reduce
    assert np.array_equal(np.concatenate(reduce_scatter), all_reduce[0]) and np.array_equal(all_reduce[0], reduce[0])
    assert np.array_equal(all_gather[2], broadcast[2]) and gather[0].tolist() == [1, 10, 100]
    text("""
        Look at the last line but one: if every rank holds its piece of the sum (*reduce-scatter*) and all collect the
        pieces (*all-gather*), everybody has the whole sum (*all-reduce*):

        $$\\text{all-reduce} = \\text{reduce-scatter} + \\text{all-gather}$$

        This equation is behind half of the tricks below: between the two halves, one can do something useful.
    """)
    quiz("An eighth word is *all-to-all*: rank $r$ sends its $i$-th piece to rank $i$. Which operation on a matrix is "
         "that, if row $r$ is what rank $r$ holds?",
         "A transposition: afterwards rank $i$ holds the $i$-th piece of everybody, that is column $i$.")  # fmt: skip


def the_ring():
    text("## All-reduce on a ring")
    text("""
        The plain way is to send everything to rank 0 and let it add. Then its link carries $n-1$ vectors while the
        others idle. On a **ring** all links work all the time. Each vector is cut into $n$ chunks; in each step every
        rank sends one chunk to its right neighbour, who adds it to its own. After $n-1$ steps each rank owns the
        finished sum of one chunk; in $n-1$ more, the sums are only copied (row: rank, column: chunk):
    """)
    vectors = np.outer([1, 10, 100, 1000], [1, 2, 3, 4])
    result = ring_by_hand(vectors)
    assert np.array_equal(result, np.tile(vectors.sum(axis=0), (4, 1)))
    text(r"""
        The first $n-1$ steps are a reduce-scatter, the other $n-1$ an all-gather. In each, a rank sends one chunk,
        $\frac{1}{n}$ of its vector of $S$ bytes:

        $$\text{sent by each rank} = 2\,\frac{n-1}{n}\,S$$
    """)
    text("That is less than $2S$ **however many ranks there are**. The library simulates the same ring in bytes:")
    volumes = {n: ring_all_reduce([torch.ones(960)] * n).sent_bytes[0] for n in (2, 4, 8, 16, 32)}  # @stepover
    naive = {n: alternate_ring_all_reduce([torch.ones(960)] * n).sent_bytes[0] for n in volumes}  # @stepover
    times = {n: (volumes[n] / 3840, naive[n] / 3840) for n in volumes}  # @inspect times
    assert all(a == 2 * (n - 1) / n and b == n - 1 for n, (a, b) in times.items())
    text("""
        The second number is the *alternate* ring, which passes whole vectors round: at 32 ranks it sends 16 times as
        much. No algorithm sends less than the first {patarasuk}, unless the switches help to add.
    """, patarasuk=PATARASUK)  # fmt: skip
    exercise("Show that the alternate ring sends $n/2$ times as much. In which order does each rank add, and do all "
             "end with the same bits?", function=ring_all_reduce,
             test="tests/unit/systems/test_ring_all_reduce.py")  # fmt: skip


def ring_by_hand(vectors):
    held, n = vectors.copy(), len(vectors)  # @inspect held
    for step in range(2 * (n - 1)):  # @inspect step
        chunks = [(rank - step) % n for rank in range(n)]  # that each rank sends; @inspect chunks
        travelling = [held[rank, chunk] for rank, chunk in enumerate(chunks)]  # @inspect travelling
        for rank, chunk in enumerate(chunks):  # @stepover
            own = held[(rank + 1) % n, chunk] if step < n - 1 else 0  # first add, then only copy
            held[(rank + 1) % n, chunk] = travelling[rank] + own
    return held


def the_price_of_a_message():
    text("### Bytes are not all: each step has a latency")
    text(r"""
        A step takes a fixed time $\alpha$ and a time per byte, so the ring needs

        $$t = 2(n-1)\,\alpha + 2\,\frac{n-1}{n}\,\frac{S}{W}, \qquad
        \text{share of the link} = \frac{1}{1 + n \alpha W / S}.$$

        We assume $\alpha$ = 10 microseconds and the link of one server to the next, $W$ = 50 GB/s.
    """)
    sizes = np.geomspace(1e3, 1e10, 29)
    curves = {f"{n} ranks": [(s, 1 / (1 + n * 10e-6 * INFINIBAND / s)) for s in sizes] for n in (8, 64, 512)}
    figure = plot_overlaid_curves(curves, xlabel="bytes in the vector", ylabel="share of the link that is used")
    figure.axes[0].set_xscale("log")
    plot(figure, alt="Three rising curves: small vectors use almost nothing of the link, and the more ranks, the less.")
    half = 64 * 10e-6 * INFINIBAND  # @inspect half
    text("""
        Among 64 ranks a vector must have {half:.0f} megabytes to use half of the link. So many small tensors are put
        into one **bucket** before they are sent, and small messages go along trees, with $2\\log_2 n$ instead of
        $2(n-1)$ latencies.

        **Trap:** two bandwidths are reported. *Algorithm bandwidth* is $S/t$; *bus bandwidth* multiplies it by
        $2(n-1)/n$, to be compared with the link. They differ by almost 2.
    """, half=half / 1e6)  # fmt: skip


def data_parallelism():
    text("## First cut: the batch")
    text(r"""
        Give each of $n$ ranks the whole model and $\frac{1}{n}$ of the batch. The loss is a mean, and differentiation
        is linear, so if the parts are of equal size

        $$\nabla \frac{1}{B}\sum_{i=1}^{B} \ell_i = \frac{1}{n}\sum_{r=1}^{n} \nabla \frac{n}{B} \sum_{i \in r} \ell_i$$

        Average the gradients of the ranks, and everybody takes the step of one device with the whole batch:
    """)
    x, y, w = torch.randn(12, 5), torch.randn(12), torch.randn(5)
    whole = gradient(w, x, y)  # @inspect whole @stepover
    parts = [gradient(w, *part) for part in zip(x.chunk(4), y.chunk(4), strict=True)]  # @inspect parts @stepover
    average = torch.stack(parts).mean(dim=0)  # @inspect average
    assert torch.allclose(average, whole, atol=1e-6)
    text("**Trap:** with unequal parts the mean of means is not the mean. Five, five, one and one example:")
    sizes = [5, 5, 1, 1]
    unequal = [gradient(w, *part) for part in zip(x.split(sizes), y.split(sizes), strict=True)]  # @stepover
    error = (torch.stack(unequal).mean(dim=0) - whole).norm() / whole.norm()  # @inspect error
    assert error > 0.1
    text("""
        The gradient is off by {error:.0%}, and nothing fails. Masked tokens do the same: where ranks have different
        numbers of targets, sum the losses and divide by the number in all ranks.
    """, error=error)  # fmt: skip
    exercise("Write `DDP`: broadcast the weights first, average each gradient as soon as the backward pass has it.",
             function=DDP, test="tests/test_ddp.py")  # fmt: skip


def gradient(w, x, y):
    w = w.clone().requires_grad_()
    (x @ w - y).square().mean().backward()
    return w.grad


def when_does_it_hide():
    text("### When is it free?")
    text(r"""
        The gradient of the last layer is ready first and can travel while the layers before it are still computed. For
        a matrix of $P$ weights in bfloat16, a batch of $B$ tokens, $C$ FLOPs and $W$ bytes per second:

        $$\underbrace{\frac{4PB}{nC}}_{\text{backward pass}} \ge
        \underbrace{2\,\frac{n-1}{n}\,\frac{2P}{W}}_{\text{all-reduce}}
        \quad\Longleftrightarrow\quad n - 1 \le \frac{BW}{C}$$

        $P$ has cancelled: **whether communication hides depends on the tokens per device, not on the model.**
    """)
    needed = H100_FLOPS / INFINIBAND  # @inspect needed
    most = accounting.max_data_parallel_devices(LAYER)  # @inspect most @stepover
    hides = [accounting.data_parallel_calcs(LAYER, int(most) + i).is_compute_bound for i in (0, 1)]  # @stepover
    assert hides == [True, False]
    text("""
        Between servers a device needs about {needed:,.0f} tokens of its own, at full speed. With a batch of four
        million tokens that allows {most:.0f} devices, whatever the model. A larger batch allows more, until it no
        longer improves the gradient (the *critical batch size* of lecture 11). **The batch is the currency that all of
        parallelism spends.**
    """, needed=needed, most=math.floor(most))  # fmt: skip
    exercise("Derive the same limit for FSDP, which gathers weights in both passes.",
             function=accounting.max_data_parallel_devices,
             test="tests/unit/systems/test_communication_accounting.py")  # fmt: skip


def sharding_the_state():
    text("## Second cut: the state")
    text("""
        Data parallelism helps with time, not with memory: every rank holds all 16 bytes per parameter. But it does not
        need them all the time. ZeRO {zero} cuts the state into $n$ shards, in three stages:

        | stage | sharded | bytes per parameter | sent per step, in parameters |
        |---|---|---|---|
        | 0 | nothing | $16$ | $2$: all-reduce |
        | 1 | moments and master copy | $4 + 12/n$ | $2$: reduce-scatter, all-gather |
        | 2 | and gradients | $2 + 14/n$ | $2$: the same |
        | 3 (FSDP) | and weights | $16/n$ | $3$: gather forward, gather backward, scatter |
    """, zero=RAJBHANDARI)  # fmt: skip
    counts = parameter_counts(SEVEN_BILLION)
    parameters = sum(counts.values())
    on_eight = [zero_bytes(parameters, 8, stage) / 1e9 for stage in range(4)]  # @inspect on_eight @stepover
    assert [round(size) for size in on_eight] == [108, 37, 25, 13]
    curves = {f"stage {stage}": [(2**i, zero_bytes(parameters, 2**i, stage) / 1e9) for i in range(9)]  # @stepover
              for stage in range(4)}  # fmt: skip
    figure = plot_overlaid_curves(curves, xlabel="ranks", ylabel="GB per rank", logarithmic=True)
    figure.axes[0].set_xscale("log", base=2)
    figure.axes[0].axhline(H100_BYTES / 1e9, color=COLOURS[-1], linestyle="--")
    plot(figure, alt="Memory per rank of a model of seven billion parameters falls with ranks, furthest in stage 3.")
    text("""
        The dashed line is the memory of an H100. Stages 1 and 2 are *free*: the all-reduce was a reduce-scatter and an
        all-gather anyway, and the optimizer now works on a shard between the two. Stage 3 costs half as much again in
        bytes, and gathers one layer at a time, while the layer before is computed:
    """)
    layer = 2 * (counts["attention"] + counts["feed-forward"]) / SEVEN_BILLION.num_layers / 1e9  # @inspect layer
    text("""
        So two gathered layers and the gradient of one, {more:.1f} GB, are all that a rank holds beyond its shard.
        **Trap:** the table has no activations in it, and they are not sharded by any of this.
    """, more=3 * layer)  # fmt: skip
    exercise("Write `FSDP`.", function=FSDP, test="tests/test_fsdp.py")


def zero_bytes(num_parameters, num_ranks, stage):
    parts = [12, 2, 2]  # moments and master copy, gradients, weights
    return num_parameters * (sum(parts[:stage]) / num_ranks + sum(parts[stage:]))


def elementwise_updates():
    text("### Why may the optimizer be cut?")
    text("Because AdamW treats each weight by itself. Two halves, updated apart, are the whole, updated at once:")
    weight = torch.linspace(-1, 1, 8)
    grad = torch.linspace(3, -2, 8) ** 3
    whole = updated(weight, grad)  # @inspect whole @stepover
    halves = [updated(w, g) for w, g in zip(weight.chunk(2), grad.chunk(2), strict=True)]  # @stepover
    assert torch.equal(torch.cat(halves), whole)
    text("**Trap:** gradient clipping is *not* elementwise. It divides by the norm of the whole gradient:")
    norms = torch.stack([part.norm() for part in grad.chunk(2)])  # @inspect norms
    norm = norms.square().sum().sqrt()  # @inspect norm
    assert torch.allclose(norm, grad.norm()) and norms.min() < 0.9 * norm
    text("""
        Ranks that clip by the norm of their own shard scale it differently, and the direction of the step is wrong.
        Squares must be summed over ranks first, as {clip} does. The same holds for optimizers that look at whole
        matrices, such as Muon or SOAP: they must be sharded by tensor, not by element.
    """, clip=clip_sharded_gradients)  # fmt: skip
    exercise("Write `ShardedOptimizer`, which gives whole tensors to ranks.",
             function=ShardedOptimizer, test="tests/test_sharded_optimizer.py")  # fmt: skip


def updated(weight, grad):
    parameter = torch.nn.Parameter(weight.clone())
    parameter.grad = grad.clone()
    AdamW([parameter], lr=0.1).step()
    return parameter.detach()


def pipelines():
    text("## Third cut: the layers")
    text("""
        Give each of $S$ **stages** a share of the layers {huang}. Only activations cross from one to the next, and
        their gradients back, by simple sends, so slow links will do. But a batch passes stage after stage, and only one
        works at a time, unless the batch is cut into $M$ **micro-batches** that follow each other:
    """, huang=HUANG)  # fmt: skip
    one, eight = simulate(gpipe_schedule(4, 1)), simulate(gpipe_schedule(4, 8))  # @stepover
    idle = {"1 micro-batch": one.bubble_fraction, "8 micro-batches": eight.bubble_fraction}  # @inspect idle
    assert [round(share, 9) for share in idle.values()] == [3 / 4, round(3 / 11, 9)]
    text(r"""
        Derivation: let a forward and a backward pass of one micro-batch on one stage take $f$ and $b$. The last stage
        starts after $(S-1)f$, works for $M(f+b)$ without a pause, and then the first one waits for the last backward
        pass to come back, $(S-1)b$. Of $(M+S-1)(f+b)$ in all, each stage stands still for $(S-1)(f+b)$:

        $$\text{bubble} = \frac{S-1}{M+S-1}$$
    """)
    text("""
        **Trap:** some papers divide by the time of the *work* and write $(S-1)/M$. At 4 stages and 8 micro-batches the
        one is {share:.0%}, the other {ratio:.0%}.

        GPipe runs all forward passes, then all backward passes. **1F1B** {narayanan} runs a backward pass as soon as
        there is one, forwards (blue) and backwards (orange) taking turns:
    """, narayanan=NARAYANAN, share=bubble_fraction(4, 8), ratio=3 / 8)  # fmt: skip
    other = simulate(schedule_1f1b(4, 8))  # @stepover
    plot(gantt({"GPipe": eight, "1F1B": other}), alt="Two charts of four stages over time. In both the stages idle as "
         "long; in GPipe all forward passes come first, in 1F1B forward and backward passes alternate.")  # fmt: skip
    duration = eight.duration, other.duration  # @inspect duration
    held = {"GPipe": eight.peak_in_flight, "1F1B": other.peak_in_flight}  # @inspect held
    assert duration == (33, 33) and held == {"GPipe": (8, 8, 8, 8), "1F1B": (4, 3, 2, 1)}
    text("""
        Equally long! What 1F1B saves is **memory**: a stage keeps the activations of at most $S$ micro-batches instead
        of all $M$, so that $M$ may grow, and a large $M$ is what shrinks the bubble. *Interleaved* stages, of $v$
        separate pieces each, divide the bubble by $v$ and multiply the messages by $v$.
    """)
    exercise("Write the 1F1B schedule, and a clock: a pass starts when its stage is free and its input is there.",
             function=schedule_1f1b, test="tests/unit/systems/test_pipeline_schedule.py")  # fmt: skip


def gantt(timelines):
    figure = Figure(figsize=(7.5, 1.9 * len(timelines)), layout="constrained")
    for axes, (name, timeline) in zip(figure.subplots(len(timelines), 1, sharex=True), timelines.items(), strict=True):
        for stage, passes in enumerate(timeline.stages):
            for done in passes:
                colour = COLOURS[0] if done.work.kind == "forward" else COLOURS[1]
                axes.barh(stage, done.end - done.start, left=done.start, height=0.84, color=colour, edgecolor="white",
                          linewidth=0.8)  # fmt: skip
                axes.text((done.start + done.end) / 2, stage, str(done.work.micro_batch + 1), ha="center", va="center",
                          fontsize=7, color="#fdfdfd")  # fmt: skip
        axes.set_yticks(range(len(timeline.stages)), [f"stage {i + 1}" for i in range(len(timeline.stages))])
        axes.invert_yaxis()
        axes.set_title(name, loc="left", fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("time, in forward passes")
    return figure


def tensor_parallelism():
    text("## Fourth cut: the matrices")
    text(r"""
        Cut inside the layer {shoeybi}. A feed-forward computes $y = \sigma(xA)B$. Cut $A$ into columns and $B$ into
        rows:

        $$y = \sigma\left(x\,[A_1\; A_2]\right)\begin{bmatrix}B_1\\ B_2\end{bmatrix}
        = \sigma(xA_1)B_1 + \sigma(xA_2)B_2$$

        Each rank computes one summand without hearing of the other; one all-reduce adds them.
    """, shoeybi=SHOEYBI)  # fmt: skip
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(3, 4)), rng.normal(size=(4, 8)), rng.normal(size=(8, 4))
    whole = np.maximum(x @ a, 0) @ b  # @inspect whole
    columns, rows = np.split(a, 2, axis=1), np.split(b, 2, axis=0)
    parts = [np.maximum(x @ a_r, 0) @ b_r for a_r, b_r in zip(columns, rows, strict=True)]  # @inspect parts
    assert np.allclose(sum(parts), whole)
    text("**Trap:** the other way round, $A$ by rows, needs a message before the nonlinearity:")
    halves = [x_r @ a_r for x_r, a_r in zip(np.split(x, 2, axis=1), np.split(a, 2, axis=0), strict=True)]
    wrong = sum(np.maximum(half, 0) for half in halves) @ b  # @inspect wrong
    assert np.allclose(sum(halves), x @ a) and not np.allclose(wrong, whole)
    text(r"""
        because $\sigma(u + v) \ne \sigma(u) + \sigma(v)$. Attention is cut by heads, which never look at each other,
        and its output matrix by rows. So a layer has two all-reduces forward and two backward, of the whole activations
        each, and **they cannot hide**: the next operation waits for the sum. How many ranks pay?

        $$\underbrace{\frac{6BDF}{nC}}_{\text{compute, gated}} \ge
        \underbrace{2\,\frac{n-1}{n}\,\frac{2BD}{W}}_{\text{all-reduce}}
        \quad\Longleftrightarrow\quad n - 1 \le \frac{3}{2}\,\frac{FW}{C}$$
    """)
    near = accounting.max_tensor_parallel_devices(replace(LAYER, bytes_per_s=NVLINK))  # @inspect near @stepover
    far = accounting.max_tensor_parallel_devices(LAYER)  # @inspect far @stepover
    assert 8 < near < 9 and far < 2
    text("""
        Now the batch has cancelled, and the width counts. Inside a server up to {inside:.0f} ranks; between servers
        {between:.1f}, which means none. And at the limit, half of the time is spent waiting. **Tensor parallelism stays
        inside the server.**
    """, inside=math.floor(near), between=far)  # fmt: skip
    exercise("Cut a Transformer by heads and by columns.",
             function=tensor_parallel, test="tests/unit/systems/test_tensor_parallel.py")  # fmt: skip


def activation_memory():
    text("## What is left: activations")
    text(r"""
        With state and matrices cut, activations are the largest part. For one layer of the GPT kind with $b$ sequences
        of $s$ tokens, width $h$ and $a$ heads, in 16 bits, {korthikanti} count the bytes kept for the backward pass:

        | kept | bytes |
        |---|---|
        | inputs of both norms | $4sbh$ |
        | input of $q, k, v$; $q$ and $k$; $v$; input of the output matrix | $2 + 4 + 2 + 2 = 10\,sbh$ |
        | softmax, its dropout's mask, what dropout lets pass | $(2 + 1 + 2)\,as^2b$ |
        | feed-forward: its input, input and output of GELU | $2 + 8 + 8 = 18\,sbh$ |
        | two masks of dropout | $2sbh$ |

        $$\text{bytes per layer} = sbh\left(34 + 5\,\frac{as}{h}\right)$$
    """, korthikanti=KORTHIKANTI)  # fmt: skip
    s, b, h, a = 64, 2, 128, 4
    formula = s * b * h * (34 + 5 * a * s / h)  # @inspect formula
    text("Do not believe it: build such a layer, and count the tensors that PyTorch keeps:")
    kept = bytes_kept(s, b, h, a)  # @inspect kept @stepover
    assert 0 <= kept - formula < 0.02 * formula
    text("""
        {kept:,} bytes, only {more:,.0f} more than the formula, for statistics of the norms and one causal mask. With
        $t$ ranks of tensor parallelism some of the 34 are cut and some are not. At the size of GPT-3 and $t = 8$, in
        units of $sbh$:
    """, kept=kept, more=kept - formula)  # fmt: skip
    scores, t = 5 * 96 * 2048 / 12_288, 8
    parts = {"one device": 34 + scores, "tensor": 10 + 24 / t + scores / t,  # @inspect scores parts
             "and sequence": (34 + scores) / t,
             "and recompute scores": 34 / t, "recompute all": 2}  # fmt: skip
    assert scores == 80 and parts["tensor"] == 23 and parts["and recompute scores"] == 4.25
    text(r"""
        The 10 that stay are norms, dropouts and the inputs of the cut matrices, which every rank holds in full.
        **Sequence parallelism** cuts these along the tokens: the all-reduce becomes an all-gather before the matrices
        and a reduce-scatter behind them, which is the same volume. Then the scores are not kept but computed again:
        they are many bytes and few FLOPs. (FlashAttention does that anyway.)
    """)


def bytes_kept(s, b, h, a):
    def linear(x, out):
        return functional.linear(x, torch.nn.Parameter(torch.zeros(out, x.shape[-1], dtype=torch.bfloat16)))

    def dropout(x):
        return torch.native_dropout(x, 0.1, True)[0]  # its mask has one byte per number

    seen = {}

    def pack(tensor):
        if not (isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter)):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    x = torch.randn(b, s, h, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        inside = functional.layer_norm(x, (h,))
        q, k, v = (linear(inside, h).view(b, s, a, h // a).transpose(1, 2) for _ in range(3))
        scores = (q @ k.transpose(-2, -1) * (h // a) ** -0.5).masked_fill(torch.ones(s, s).triu(1).bool(), -1e9)
        mixed = (dropout(scores.softmax(dim=-1)) @ v).transpose(1, 2).reshape(b, s, h)
        x = x + dropout(linear(mixed, h))
        x = x + dropout(linear(functional.gelu(linear(functional.layer_norm(x, (h,)), 4 * h)), h))
    return sum(size for size, _ in seen.values())


def long_sequences():
    text("## Fifth cut: the sequence")
    text("""
        A very long sequence can be cut throughout (*context parallelism*): each rank holds some of the tokens, and in
        attention keys and values travel round a ring, while each rank merges block after block with the online softmax
        of lecture 5. Under a causal mask, who does how much?
    """)
    contiguous = attention_work(4, 1024, "contiguous")  # @inspect contiguous @stepover
    zigzag = attention_work(4, 1024, "zigzag")  # @inspect zigzag @stepover
    assert contiguous == [65_536 * i for i in (1, 2, 3, 4)] and len(set(zigzag)) == 1
    text("""
        If rank 0 has the first quarter, it has nothing to look back at and is idle for three quarters of the time; all
        wait for rank 3. In the *zigzag* layout rank $r$ holds pieces $r$ and $2n-1-r$ of $2n$: all work alike, and the
        longest takes {ratio:.0%} of the time.
    """, ratio=zigzag[0] / contiguous[-1])  # fmt: skip
    exercise("Write ring attention, forward and backward.", function=ring_attention,
             test="tests/unit/systems/test_context_parallel.py")  # fmt: skip


def experts():
    text("## Sixth cut: the experts")
    text(r"""
        In a mixture of experts (lecture 4) each token goes to $k$ of $E$ experts. Put the experts on different ranks
        {lepikhin}: an **all-to-all** carries tokens to their experts, another one brings them back. With $n$ ranks, on
        average $k\,\frac{n-1}{n}$ copies of a token leave its rank, each way.
    """, lepikhin=LEPIKHIN)  # fmt: skip
    popularity = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    chosen = popularity.expand(4096, 8).multinomial(2).numpy()  # two different experts per token
    home, target = np.arange(4096) // 1024, chosen // 2  # two experts on each of four ranks
    letters = np.array([np.bincount(target[home == rank].ravel(), minlength=4) for rank in range(4)])  # @stepover
    received = letters.sum(axis=0)  # @inspect letters received
    imbalance = received.max() / received.mean()  # @inspect imbalance
    assert letters.sum() == 2 * 4096 and imbalance > 1.5
    text("""
        Row: from, column: to. Everybody waits for the rank with the most popular experts, {imbalance:.2f} times the
        average. Routers are trained to balance their load not only for the experts' sake, but for *time*.
    """, imbalance=imbalance)  # fmt: skip


def combining():
    text("## All together")
    text("""
        | cut | by | sends, per layer | needs | put it |
        |---|---|---|---|---|
        | tensor (+ sequence) | heads, columns | activations, 4 times, waiting | wide layers | inside a server |
        | context | tokens | keys and values | long sequences | near |
        | expert | experts | tokens, twice each way | balance | near |
        | pipeline | layers | activations, once each way | many micro-batches | between servers |
        | data, ZeRO, FSDP | batch | weights and gradients, hidden | tokens per device | furthest |
    """)
    text(r"""
        A rule that works: tensor parallelism until the server is full; then FSDP, while the tokens of each group of
        tensor ranks are enough, $C/W$ of them, to hide the weights; if they are not, a pipeline between. A model of 70
        billion parameters with 4 million tokens a step on 1024 GPUs, and the same with 16 million on 16,384:
    """)
    alone, beside = judge_plan(1024, 2**22, 1, 1), judge_plan(1024, 2**22, 8, 1)  # @inspect alone beside @stepover
    many, piped = judge_plan(2**14, 2**24, 8, 1), judge_plan(2**14, 2**24, 8, 16)  # @inspect many piped @stepover
    assert beside["hides"] and piped["hides"] and not alone["hides"] and not many["hides"]
    text("""
        On 1024 GPUs, FSDP alone leaves too few tokens to each; beside tensor parallelism it has eight times as many. On
        16,384 even that is too little, and the price is a bubble, {bubble:.0%} with plain stages and {less:.0%} with
        eight interleaved pieces in each. {llama} report for their largest model, of 405 billion parameters (ranks for
        tensor, context, pipeline and data parallelism; sequences per data rank and their length):
    """, bubble=piped["bubble"], less=15 / (8 * 16 + 15), llama=LLAMA3)  # fmt: skip
    rows = [(8, 1, 16, 64, 32, 8192), (8, 1, 16, 128, 16, 8192), (8, 16, 16, 8, 16, 131_072)]  # @inspect rows
    gpus, tokens = [math.prod(row[:4]) for row in rows], {math.prod(row[3:]) for row in rows}  # @inspect gpus tokens
    assert gpus == [8192, 16_384, 16_384] and tokens == {2**24}
    text("Tensor inside the server, pipeline between, data outside, and 16 million tokens a step in every run.")


def judge_plan(num_gpus, batch_tokens, tensor, pipeline, parameters=70e9, length=8192):
    data = num_gpus // (tensor * pipeline)
    tokens = batch_tokens // data
    state = zero_bytes(parameters / (tensor * pipeline), data, 3 if pipeline == 1 else 1) / 1e9
    bubble = bubble_fraction(pipeline, tokens // length) if pipeline > 1 else 0.0  # a sequence is a micro-batch
    return {"state, GB": state, "tokens": tokens, "hides": tokens > H100_FLOPS / INFINIBAND, "bubble": bubble}


def summary():
    text("## What to take home")
    text(r"""
        - All-reduce is reduce-scatter plus all-gather, and costs $2\frac{n-1}{n}S$ bytes whatever $n$ is.
        - Data parallelism hides if each device has about $C/W$ tokens; the model's size does not matter.
        - ZeRO cuts the state: stages 1 and 2 for nothing, stage 3 for half as many bytes again.
        - Pipelines: bubble $\frac{S-1}{M+S-1}$; 1F1B is not faster but holds less. Tensor: inside a server.
        - Activations: $sbh(34 + 5as/h)$ bytes per layer; cut the sequence, recompute the scores.
        - Count before you build. Every limit above is one division.

        *Next: the same in real processes.*
    """)


if __name__ == "__main__":
    main()

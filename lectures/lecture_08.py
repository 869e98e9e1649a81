"""Many devices, in code: real processes that talk.

Lecture 8 of the course: the collectives, data parallelism, sharded state, tensor and pipeline parallelism, each written
with `torch.distributed` and run in real processes, one lane each, and each asserted to give what one process alone
gives. It prepares assignment 2, problems `naive_ddp`, `ddp_overlap`, `sharded_optimizer` and `fsdp`. Left out: what it
costs (lecture 7). Read next: `lecture_09.py`.
"""

import torch
import torch.distributed as dist

from cs336_basics.layers import Linear
from cs336_basics.runs.plots import plot_values
from cs336_systems.parallel.collectives import measure
from cs336_systems.parallel.ddp import DDP, DDPBucketed
from cs336_systems.parallel.fsdp import FSDP
from cs336_systems.parallel.pipeline_parallel import Pipeline
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer
from cs336_systems.parallel.tensor_parallel import ColumnParallelLinear, RowParallelLinear, tensor_parallel
from lectures.content import Reference, exercise, needs, plot, quiz, spawn, text

LI = Reference(title="PyTorch Distributed: Experiences on Accelerating Data Parallel Training", date="2020",
               authors=["Shen Li", "Yanli Zhao"], url="https://arxiv.org/abs/2006.15704")  # fmt: skip
ZHAO = Reference(title="PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", date="2023",
                 authors=["Yanli Zhao", "Andrew Gu"], url="https://arxiv.org/abs/2304.11277")  # fmt: skip
NCCL = Reference(title="NVIDIA Collective Communications Library (NCCL) Documentation", organization="NVIDIA")

WIDTH, BATCH, RATE = 64, 16, 0.5

OVERLAP = {
    "machine": "2 CPU cores, Linux, gloo, torch 2.13, 2 ranks",
    "date": "2026-11-22",
    "seconds": {"compute": 0.1646, "serial": 0.3841, "overlapped": 0.2776},
    "gradient_bytes": 12_582_912,
    "buckets": 12,
}
"""recorded by `python benchmarks/bench_ddp_overlap.py`: one step with the network slowed down"""


def main():
    text("# Many devices, in code")
    text("*Lecture 8: real processes that talk*")
    how_it_works()
    the_words()
    mistakes()
    models()
    overlap()
    on_gpus()
    summary()


def how_it_works():
    text("## One program, many processes")
    text("""
        All processes run the **same program**. Each knows two numbers, its `rank` and the `world_size`, and decides by
        them what part is its own. Nothing is shared: whatever one knows of another was sent.

        A *backend* moves the bytes: **gloo** between CPUs over the network, **NCCL** {nccl} between GPUs. NCCL finds
        out how the GPUs are connected (PCIe, NVLink, InfiniBand), builds rings and trees, and runs kernels that send
        and receive; GPUs write into each other's memory, also on other servers (*remote direct memory access*), without
        asking a CPU.
    """, nccl=NCCL)  # fmt: skip
    text("""
        | connection | bytes per second, both directions |
        |---|---|
        | PCIe 5.0, 16 lanes | 128 billion |
        | NVLink 4 (H100) | 900 billion |
        | NVLink 5 (B200; 72 GPUs in one rack) | 1,800 billion |
        | InfiniBand NDR, one port of 400 Gbit/s | 100 billion |
    """)
    pci = 2 * 16 * 32e9 / 8  # both directions, lanes, transfers of a bit per second, bits in a byte
    infiniband = 2 * 400e9 / 8  # @inspect pci infiniband
    assert pci == 128e9 and infiniband == 100e9
    text("""
        What follows runs in real processes, with gloo, while this page was made. Each process has a **lane**: the
        variables on the right are those of the rank whose step you look at. What one rank does before a collective
        stands before what any rank does after it; between two collectives the order means nothing.
    """)


def the_words():
    text("## The seven words, and an eighth")
    text("Four processes start here, form a group, and run this function:")
    spawn(collectives, 4)
    text("""
        Note how many hold the result: one (`reduce`, `gather`) or all (`all_*`). And note that `all_reduce` writes
        *into* its argument. That saves memory, and it surprises everybody once.
    """)
    exercise("Time these operations on your machine for several sizes and numbers of ranks.", function=measure,
             test="tests/unit/systems/test_collectives.py")  # fmt: skip


def collectives(rank, world_size):  # @inspect rank world_size
    x = torch.arange(4.0) + rank  # @inspect x
    text("**All-reduce**: everybody gets the sum. Before it, rank $r$ has $[0, 1, 2, 3] + r$.")
    dist.all_reduce(x, op=dist.ReduceOp.SUM)
    assert x.tolist() == [6, 10, 14, 18]
    text("**Broadcast**: everybody gets what rank 0 has. Good for initial weights and for decisions.")
    decision = torch.tensor([42.0 if rank == 0 else -1.0])  # @inspect decision
    dist.broadcast(decision, src=0)
    assert decision.item() == 42
    text("**Scatter** and **gather**: rank 0 deals out pieces, or collects them.")
    piece = torch.empty(1)
    dist.scatter(
        piece, [torch.tensor([float(i * i)]) for i in range(4)] if rank == 0 else None, src=0
    )  # @inspect piece
    assert piece.item() == rank**2
    collected = [torch.empty(1) for _ in range(4)] if rank == 0 else None
    dist.gather(piece, collected, dst=0)  # @inspect collected
    assert collected is None or [t.item() for t in collected] == [0, 1, 4, 9]
    text("**Reduce**: only rank 0 gets the sum (what the others hold afterwards is undefined).")
    y = torch.tensor([float(rank)])
    dist.reduce(y, dst=0)
    assert rank != 0 or y.item() == 6
    text("**Reduce-scatter**: everybody gets one piece of the sum. **All-gather**: everybody gets all pieces.")
    whole = torch.arange(4.0) + rank
    own = torch.empty(1)
    dist.reduce_scatter(own, list(whole.chunk(4)))  # @inspect own
    assert own.item() == 6 + 4 * rank
    together = torch.empty(4)
    dist.all_gather(list(together.chunk(4)), own)  # @inspect together
    assert torch.equal(together, x)
    text("These two, one after the other, are an all-reduce. **All-to-all**: everybody sends everybody something else.")
    letters = torch.tensor([10.0 * rank + to for to in range(4)])  # @inspect letters
    received = torch.empty(4)
    dist.all_to_all_single(received, letters)  # @inspect received
    assert received.tolist() == [10 * sender + rank for sender in range(4)]
    text("A letter `12` went from rank 1 to rank 2. It is the transposition of a matrix whose rows lie on the ranks.")


def mistakes():
    text("## Three ways to wait for ever")
    text("""
        A collective ends when **all** ranks have called it, the same one, in the same order, with the same shapes. So:

        - `if rank == 0: dist.all_reduce(loss)` waits for ever (or until a timeout). Logging on one rank is fine;
          *communicating* on one rank is not.
        - Ranks that see different numbers of batches: the one with more waits at the end for the others.
        - Two ranks that both `send` before they `recv`, each waiting until the other takes what it sends.

        And one way to be wrong without waiting: with `async_op=True` the call returns at once, with a handle. Before
        `handle.wait()` the tensor may hold anything, and writing to it spoils what is sent.
    """)
    quiz(
        "Rank 1 finds a NaN in its loss and skips the step, with `continue`. What happens?",
        "It calls no all-reduce in this step. Its *next* all-reduce meets the others' present one: gradients of different"
        " steps are averaged, silently, and at the end one rank waits for ever. Skip together: all-reduce the decision.",
    )


def models():
    text("## Four ways to train one small model")
    text(r"""
        The model is $y = \text{relu}(xW_1)W_2$ with width 64, the batch has 16 rows, and the loss is the mean squared
        error. Small enough to look at, and all that matters is there. Two processes run the following sections, one
        after the other; in each they end with **the result of a single process**, or the assertion stops the lecture.
    """)
    spawn(four_ways, 2)


def four_ways(rank, world_size):
    data_parallel(rank, world_size)
    sharded_state(rank, world_size)
    tensor_cut(rank, world_size)
    pipeline(rank, world_size)


def weights_and_data():
    generator = torch.Generator().manual_seed(0)
    w1, w2 = (torch.randn(WIDTH, WIDTH, generator=generator) / 8 for _ in range(2))
    x, y = (torch.randn(BATCH, WIDTH, generator=generator) for _ in range(2))
    return w1.requires_grad_(), w2.requires_grad_(), x, y


def loss_of(w1, w2, x, y):
    return ((x @ w1).relu() @ w2 - y).square().mean()


def gradients_alone():
    w1, w2, x, y = weights_and_data()
    return torch.autograd.grad(loss_of(w1, w2, x, y), (w1, w2))


def data_parallel(rank, world_size):
    text("### Data parallelism: all-reduce the gradients")
    w1, w2, x, y = weights_and_data()  # @stepover
    rows = slice(rank * 8, rank * 8 + 8)  # @inspect rank rows
    for _ in range(3):
        loss = loss_of(w1, w2, x[rows], y[rows])  # @inspect loss @stepover
        gradients = torch.autograd.grad(loss, (w1, w2))
        for w, gradient in zip((w1, w2), gradients, strict=True):
            dist.all_reduce(gradient)
            w.data -= RATE * gradient / world_size
    everywhere = [torch.empty(()) for _ in range(2)]
    dist.all_gather(everywhere, loss.detach())  # @inspect everywhere
    assert everywhere[0] != everywhere[1]
    alone1, alone2 = train_alone(3)  # @stepover
    error = max((w1 - alone1).abs().max(), (w2 - alone2).abs().max())  # @inspect error
    assert error < 1e-6
    text("""
        The **losses differ**, for each rank has rows of its own; the **weights agree**, with each other and with one
        process that has the whole batch (up to rounding: sums in another order).
    """)
    text("**Trap:** the same, but each rank begins with its own random weights, as it does with different seeds:")
    mine = torch.randn(2, generator=torch.Generator().manual_seed(rank))  # @inspect mine
    gradient = torch.tensor([0.5, -0.5])  # averaged, hence equal
    mine -= RATE * gradient
    both = torch.empty(4)
    dist.all_gather(list(both.chunk(2)), mine)  # @inspect both
    assert not torch.equal(both[:2], both[2:])
    text("""
        They take the same steps from different places, and stay apart for ever. The loss falls all the same. So `DDP`
        **broadcasts** the weights of rank 0 before anything else. The library's, on the same model:
    """)
    torch.manual_seed(rank)  # different weights, on purpose
    model = DDP(torch.nn.Sequential(Linear(WIDTH, WIDTH), Linear(WIDTH, WIDTH)))  # @stepover
    (model(x[rows]) - y[rows]).square().mean().backward()  # @stepover
    model.finish_gradient_synchronization()  # @stepover
    up, down = (layer.weight.detach().requires_grad_() for layer in model.module)
    whole = (x @ up.T @ down.T - y).square().mean()  # @inspect whole
    wanted = torch.autograd.grad(whole, (up, down))  # on all rows, in this process alone
    error = max(
        (layer.weight.grad - g).abs().max() for layer, g in zip(model.module, wanted, strict=True)
    )  # @inspect error
    assert error < 1e-6
    exercise("Write `DDP` and average each gradient while backward still runs.", function=DDP, test="tests/test_ddp.py")


def train_alone(num_steps):
    w1, w2, x, y = weights_and_data()
    for _ in range(num_steps):
        gradients = torch.autograd.grad(loss_of(w1, w2, x, y), (w1, w2))
        for w, gradient in zip((w1, w2), gradients, strict=True):
            w.data -= RATE * gradient
    return w1, w2


def sharded_state(rank, world_size):
    text("### Sharded state: reduce-scatter, update, all-gather")
    text("""
        Between the two halves of an all-reduce each rank owns a part of the summed gradient. That is the moment to run
        the optimizer, on this part only, with the moments of this part only (ZeRO, stage 1):
    """)
    w1, w2, x, y = weights_and_data()  # @stepover
    flat = torch.cat([w1.detach().flatten(), w2.detach().flatten()])
    size = len(flat) // world_size
    part = slice(rank * size, (rank + 1) * size)  # @inspect part
    first, second = torch.zeros(size), torch.zeros(size)  # @inspect first.shape second.shape
    rows = slice(rank * 8, rank * 8 + 8)
    for step in range(1, 4):  # @inspect step
        gradient = flat_gradient(flat, x[rows], y[rows])  # @stepover
        own = torch.empty(size)
        dist.reduce_scatter(own, list(gradient.chunk(2)))
        update = adam_update(first, second, own / world_size, step)  # @inspect update.shape @stepover
        dist.all_gather(list(flat.chunk(2)), flat[part] - update)
    alone = adam_alone(3)  # @stepover
    error = (flat - alone).abs().max()  # @inspect error
    assert error < 1e-5
    text("""
        The same weights as with Adam in one process, and each rank has moments for {own:,} of {all:,} weights. FSDP
        goes one step further {zhao} and keeps only a part of the *weights*: gather a layer's before its matrix product,
        drop them after it, and again in backward. With the parts that we have:
    """, own=size, all=len(flat), zhao=ZHAO)  # fmt: skip
    my_rows = flat[part].clone()  # rank 0 now owns all of W1, rank 1 all of W2  # @inspect my_rows.shape
    gathered = torch.empty(len(flat))
    dist.all_gather(list(gathered.chunk(2)), my_rows)
    gradient = flat_gradient(gathered, x[rows], y[rows])  # @stepover
    del gathered  # the whole weights lived for one layer's work
    own = torch.empty(size)
    dist.reduce_scatter(own, list(gradient.chunk(2)))
    wanted = flat_gradient(alone, x, y)[part]  # @stepover
    assert torch.allclose(own / world_size, wanted, atol=1e-6)
    exercise("Shard an optimizer by whole tensors.", function=ShardedOptimizer, test="tests/test_sharded_optimizer.py")
    exercise("Write `FSDP`, gathering each layer while the one before computes.", function=FSDP,
             test="tests/test_fsdp.py")  # fmt: skip


def flat_gradient(flat, x, y):
    w1, w2 = (w.view(WIDTH, WIDTH).detach().requires_grad_() for w in flat.chunk(2))
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss_of(w1, w2, x, y), (w1, w2))])


def adam_update(first, second, gradient, step, rate=0.01):
    first.lerp_(gradient, 0.1)
    second.lerp_(gradient.square(), 0.001)
    return rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)


def adam_alone(num_steps):
    w1, w2, x, y = weights_and_data()
    flat = torch.cat([w1.detach().flatten(), w2.detach().flatten()])
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    for step in range(1, num_steps + 1):
        flat = flat - adam_update(first, second, flat_gradient(flat, x, y), step)
    return flat


def tensor_cut(rank, world_size):
    text("### Tensor parallelism: columns, then rows")
    w1, w2, x, y = weights_and_data()  # @stepover
    columns = w1.detach().chunk(2, dim=1)[rank].clone().requires_grad_()  # @inspect columns.shape
    rows = w2.detach().chunk(2, dim=0)[rank].clone().requires_grad_()  # @inspect rows.shape
    hidden = (x @ columns).relu()  # each rank has half of the hidden features  # @inspect hidden.shape
    output = hidden @ rows  # a summand  # @inspect output
    dist.all_reduce(output.data)  # .data: the graph remembers the summand only
    whole = (x @ w1).relu() @ w2
    assert torch.allclose(output, whole, atol=1e-5)
    text(r"""
        Every rank reads the **whole batch** here, and one all-reduce made the summands whole. Backward: the gradient of
        the output is the same on all ranks, so each can go on alone through its rows and columns,
    """)
    d_output = 2 * (output.detach() - y) / y.numel()
    d_columns, d_rows = torch.autograd.grad(output, (columns, rows), d_output)
    alone1, alone2 = gradients_alone()  # @stepover
    error1 = (d_columns - alone1.chunk(2, dim=1)[rank]).abs().max()  # @inspect error1
    error2 = (d_rows - alone2.chunk(2, dim=0)[rank]).abs().max()  # @inspect error2
    assert max(error1, error2) < 1e-6
    text("""
        and the gradients of its shards are exactly the slices of the whole ones: no all-reduce of weight gradients.
        Only the gradient of the *input* is a sum over ranks again, which the layer before needs. The library writes
        this down once, as two functions that are each other's mirror image: copy forward and add backward, add forward
        and copy backward. With its layers:
    """)
    torch.manual_seed(0)  # tensor-parallel ranks must begin with the same weights
    up, down = Linear(WIDTH, WIDTH), Linear(WIDTH, WIDTH)  # @stepover
    z = x.clone().requires_grad_()
    down(up(z).relu()).square().mean().backward()  # @stepover
    wanted, z.grad = z.grad, None
    cut_up, cut_down = ColumnParallelLinear(up), RowParallelLinear(down)  # @stepover
    cut_down(cut_up(z).relu()).square().mean().backward()  # @stepover
    assert torch.allclose(z.grad, wanted, atol=1e-6) and cut_up.weight.shape == (WIDTH // 2, WIDTH)
    exercise("Cut a whole Transformer, with its heads and its vocabulary.", function=tensor_parallel,
             test="tests/unit/systems/test_tensor_parallel.py")  # fmt: skip


def pipeline(rank, world_size):
    text("### Pipeline: send and receive")
    text("""
        Rank 0 has the first matrix, rank 1 the second. The batch is cut into four micro-batches; forward, activations
        go to the right, backward, gradients go to the left. This is the whole of GPipe's schedule:
    """)
    w1, w2, x, y = weights_and_data()  # @stepover
    if rank == 0:
        hidden = []
        for part in x.chunk(4):
            hidden.append((part @ w1).relu())  # kept, with its graph, until its gradient comes
            dist.send(hidden[-1].detach(), dst=1)
        for activation in hidden:  # @inspect activation.shape
            d_hidden = torch.empty_like(activation)
            dist.recv(d_hidden, src=1)
            activation.backward(d_hidden)
        own, index = w1.grad, 0
    else:
        arrived = [torch.empty(BATCH // 4, WIDTH) for _ in range(4)]
        for part in arrived:
            dist.recv(part, src=0)  # @inspect part.shape
        for part, target in zip(arrived, y.chunk(4), strict=True):
            part.requires_grad_()
            loss = (part @ w2 - target).square().mean() / 4  # @inspect loss
            loss.backward()
            dist.send(part.grad, dst=0)
        own, index = w2.grad, 1
    error = (own - gradients_alone()[index]).abs().max()  # @inspect error @stepover
    assert error < 1e-6
    text("""
        Each rank ends with the gradient of its own matrix, that of the whole batch. **Trap:** each micro-batch's loss
        must be divided by 4, as in gradient accumulation, which this is. And the order matters: if rank 1 sent its
        first gradient while rank 0 still sends activations and nobody receives, both would wait for ever. Schedules
        with alternating passes use sends that return at once (`isend`), and two groups.
    """)
    exercise("Run any schedule of passes on real stages.", function=Pipeline,
             test="tests/unit/systems/test_pipeline_parallel.py")  # fmt: skip


def overlap():
    text("## Communicating while computing")
    text("""
        All of the above wait for each message. But a gradient is ready long before the backward pass ends: send it
        then, in **buckets**, large enough to use the link, small enough to leave early {li}. A time is different in
        every run, so here is a *recorded* one, with the network slowed down so that there is something to hide:
    """, li=LI)  # fmt: skip
    machine, date = OVERLAP["machine"], OVERLAP["date"]  # @inspect machine date
    seconds = OVERLAP["seconds"]  # @inspect seconds
    communication = seconds["serial"] - seconds["compute"]  # @inspect communication
    exposed = seconds["overlapped"] - seconds["compute"]  # @inspect exposed
    hidden = 1 - exposed / communication  # @inspect hidden
    assert 0.45 < hidden < 0.52
    plot(plot_values(list(seconds), {"seconds per step": list(seconds.values())}, ylabel=f"seconds, {date}"),
         alt="Three bars: compute alone is shortest, serial communication longest, overlapped in between.")  # fmt: skip
    text("""
        *Recorded on {machine}, {date}; run `python benchmarks/bench_ddp_overlap.py` for yours.* Of {all:.2f} s of
        communication, {hidden:.0%} are hidden behind the backward pass. All of it cannot be: the first gradient is
        ready only when the pass is under way, and the last bucket leaves when there is nothing left to compute.
    """, machine=machine, date=date, all=communication, hidden=hidden)  # fmt: skip
    buckets, megabytes = OVERLAP["buckets"], OVERLAP["gradient_bytes"] / 1e6  # @inspect buckets megabytes
    text("Here {n} buckets carried {mb:.1f} MB. On GPUs the same is done with *streams*: queues of work that run beside "
         "each other, joined by events.", n=buckets, mb=megabytes)  # fmt: skip
    exercise("Fill buckets in the order in which backward finishes.", function=DDPBucketed,
             test="tests/test_ddp_bucketed.py")  # fmt: skip


def on_gpus():
    text("### On GPUs")
    num_gpus = torch.cuda.device_count()  # @inspect num_gpus
    if num_gpus >= 2:
        text("""
            This machine has {n} GPUs. `cs336 systems collectives --backends nccl` measures them: compare the *bus
            bandwidth* of a large all-reduce with the table above.
        """, n=num_gpus)  # fmt: skip
    else:
        needs("two GPUs")
        text("""
            With GPUs (here: {n}), `cs336
            systems collectives --backends nccl` prints the same table as for gloo. Two things change: name the device
            of each rank (`torch.cuda.set_device(rank)`) before anything else, and synchronize before you read a clock,
            because kernels are only *queued* when a call returns.
        """, n=num_gpus)  # fmt: skip
    text(r"""
        What to expect: an all-reduce of $S$ bytes over $n$ GPUs moves $2\frac{n-1}{n}S$ out of each. If it takes $t$,
        then $2\frac{n-1}{n}S/t$ should come near the link's speed in one direction, 450 GB/s for NVLink 4.
    """)
    least_ms = 2 * 3 / 4 * 4 * 100 * 2**20 / 450e9 * 1e3  # @inspect least_ms
    assert 1.3 < least_ms < 1.5
    text("For 100 Mi float32 numbers on four H100s that is {ms:.1f} ms at best.", ms=least_ms)
    quiz(
        "You measure 0.05 ms for the same all-reduce. What did you forget?",
        "To synchronize. You timed the *launch*; the communication had hardly begun.",
    )


def summary():
    text("## What to take home")
    text("""
        - One program in all processes; `rank` says what is one's own. All must call the same collectives in one order.
        - Data parallel: broadcast once, all-reduce gradients each step, divide by the number of ranks.
        - Sharded state: reduce-scatter, update, all-gather. FSDP: gather weights too, layer by layer.
        - Tensor parallel: columns, rows, one all-reduce; gradients of shards need none.
        - Pipeline: send activations right and gradients left; micro-batches are gradient accumulation.
        - **Test against one process.** Every section above did, and that is how one finds the missing division.

        *Next: before renting a thousand GPUs, predict what comes out.*
    """)


if __name__ == "__main__":
    main()

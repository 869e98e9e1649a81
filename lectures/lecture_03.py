"""Architectures: what changed in the Transformer since 2017, and why.

Lecture 3 of the course: norms and where they stand, feed-forward networks, rotary positions, the ratios of published
models, and what keeps large runs stable. It prepares assignment 1, problems `rmsnorm`, `positionwise_feedforward`,
`rope`, `transformer_block` and the ablations. Left out: experts and linear attention (lecture 4), inference (lecture
10). Read next: `lecture_04.py`.
"""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cs336_basics.accounting import cached_numbers, parameter_counts
from cs336_basics.corpora.stories import generate_story
from cs336_basics.data import get_batch
from cs336_basics.layers import RMSNorm, RotaryPositionalEmbedding, SwiGLU, rms_norm
from cs336_basics.model import TransformerBlock, TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import cross_entropy, logsumexp, silu, softcap, softmax, z_loss
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_basics.variants.block_layouts import ParallelBlock
from cs336_basics.variants.configurable_attention import ConfigurableAttention
from cs336_basics.variants.score_rules import attention_by_rules
from cs336_systems.roofline import operation_costs
from lectures.content import Reference, exercise, note, plot, quiz, text

DATA = Path(__file__).parent / "data"
WORKS = {key: Reference(**work) for key, work in json.loads((DATA / "works.json").read_text(encoding="utf-8")).items()}
PUBLISHED = json.loads((DATA / "published_models.json").read_text(encoding="utf-8"))
CONFIGS = {name: ModelConfig(**entry["config"]) for name, entry in PUBLISHED.items()}


def main():
    text("# What changed in the Transformer")
    text("*Lecture 3: architectures and hyperparameters*")
    the_question()
    where_the_norm_stands()
    gradients_through_depth()
    sensitivity()
    the_norm_itself()
    feed_forward()
    a_small_race()
    side_by_side()
    rotary_positions()
    rotary_traps()
    ten_models()
    the_ratios()
    regularisation()
    the_softmax_at_the_end()
    the_softmax_inside()
    shared_heads()
    sliding_window()
    summary()


def the_question():
    text("## Learn from other people's runs")
    text("""
        Nobody can afford to try every architecture at full size. But dozens of groups have published theirs, and
        where they agree after years of expensive trials, there is evidence; where they still differ, the choice does
        not matter much. We go through the Transformer of {vaswani} part by part and ask of each change: what was
        wrong, what is the remedy, and can we *see* it on a laptop?
    """, vaswani=WORKS["vaswani"])  # fmt: skip
    text("""
        | part | 2017 | today |
        |---|---|---|
        | place of the norm | after each sum | before each sublayer |
        | norm | LayerNorm | RMSNorm |
        | biases | everywhere | none |
        | feed-forward | ReLU, width $4d$ | SwiGLU, width $\\frac{8}{3} d$ |
        | positions | added sines | rotated queries and keys |
        | keys and values | one per head | shared by groups of heads |
    """)


def where_the_norm_stands():
    text("## Where the norm stands")
    text(r"""
        A block adds two things to the residual stream $x$: attention and feed-forward, both written $f$ here. In
        2017 the norm $N$ stood on the stream itself; today it stands on the branch:

        $$\text{post-norm:}\quad x_{l+1} = N(x_l + f(x_l)) \qquad\qquad
        \text{pre-norm:}\quad x_{l+1} = x_l + f(N(x_l))$$

        Read the second one over all layers, $x_L = x_0 + \sum_l f_l(N(x_l))$: there is a path from the loss to every
        layer on which nothing happens. Its Jacobian is $I + J_l$ per layer, and the product of these contains $I$.
        Under post-norm, every layer divides the gradient by the size of $x_l + f(x_l)$, and no such path exists.
    """)
    exercise("Write the pre-norm block.", function=TransformerBlock, test="tests/test_model.py")


def gradients_through_depth():
    text("### First try: do gradients vanish?")
    text("""
        So post-norm should lose the gradient on its way down. Let us look: the norm of each block's gradient, at
        random weights, over that of the last block's.
    """)
    sizes = {norm: [block_gradients(norm, depth) for depth in (2, 8, 32)] for norm in ("pre", "post")}
    pre, post = ([blocks[0] for blocks in sizes[norm]] for norm in sizes)  # @inspect pre post
    curves = {f"{norm}-norm": list(enumerate(sizes[norm][-1], 1)) for norm in sizes}
    assert all(0.5 < ratio < 20 for ratio in pre + post)
    plot(
        plot_overlaid_curves(curves, xlabel="block", ylabel="gradient, last block = 1"),
        alt="Gradient of each of 32 blocks for pre- and post-norm: both stay within a factor of ten of the last block.",
    )
    text("""
        Nothing vanishes: the first of 32 blocks has {pre:.1f} times the gradient of the last one with pre-norm and
        {post:.1f} times with post-norm. The path through $f$ makes up for what the norm takes away, as long as $f$
        keeps the size of what it is given, which our initial weights see to. So much for the folklore; the trouble
        with post-norm must lie elsewhere.
    """, pre=pre[-1], post=post[-1])  # fmt: skip
    text("And without any norm? The root mean square of the stream, block after block:")
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(64, 16, 32, 8, 4, d_ff=96, norm="none"))  # @stepover
    x, sizes = model.token_embeddings(torch.arange(16)[None]), []  # @stepover
    for layer in model.layers:  # @every 3
        x = layer(x, torch.arange(16))  # @stepover
        sizes.append(x.square().mean().sqrt().item())  # @inspect sizes
    assert sizes[0] < 10 and not sizes[-1] < 1e30
    text(r"""
        SwiGLU multiplies two linear functions of its input, so it makes a stream of size $s$ into one of size about
        $s^2$: once sizes are above one they are *squared* by every block, and after eight the numbers overflow.
    """)


def block_gradients(norm, num_layers):
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(64, 16, 32, num_layers, 4, d_ff=96, norm=norm))  # @stepover
    ids = torch.randint(64, (4, 17))
    cross_entropy(model(ids[:, :-1]), ids[:, 1:]).backward()  # @stepover
    sizes = [math.hypot(*(p.grad.norm().item() for p in block.parameters())) for block in model.layers]
    return [size / sizes[-1] for size in sizes]


def sensitivity():
    text("### Second try: how far does one step move the output?")
    text(r"""
        An optimizer such as Adam moves *all* weights by a similar share at once. Change every matrix by 1 % of its
        size at random: how much does the model's last hidden state change? {liu} predict that the squared change
        grows like $\log L$ with pre-norm, since block $l$ adds a piece to a stream that is already $\sqrt{l}$ long,
        and like $L$ with post-norm, where every block weighs as much as all before it together.
    """, liu=WORKS["liu"])  # fmt: skip
    depths = (2, 4, 8, 16, 32)
    pre = {depth: change_of_output("pre", depth) for depth in depths}  # @inspect pre @stepover
    post = {depth: change_of_output("post", depth) for depth in depths}  # @inspect post @stepover
    assert pre[32] / pre[2] < 4 < 2 * 4 < post[32] / post[2]
    plot(
        plot_overlaid_curves(
            {"pre-norm": list(pre.items()), "post-norm": list(post.items())}, logarithmic=True,
            xlabel="blocks", ylabel="relative change of the output",
        ),
        alt="With pre-norm the output's change grows slowly with depth, with post-norm much faster.",
    )  # fmt: skip
    text("""
        From 2 to 32 blocks the change grows {pre:.1f} times with pre-norm, where {log:.1f} were predicted, and
        {post:.0f} times with post-norm, more even than the predicted {root:.0f}. That is the difference: a deep
        post-norm model answers the same step with a much larger jump, so it needs tiny first steps, a long
        warm-up, and sometimes diverges all the same. {xiong} found as much by training.
    """, pre=pre[32] / pre[2], post=post[32] / post[2], log=math.sqrt(math.log2(32)),
         root=math.sqrt(32 / 2), xiong=WORKS["xiong"])  # fmt: skip
    note("The experiment takes a second; ask for guesses before showing the plot.")
    quiz(
        "OLMo 2 and Gemma 2 put a norm *behind* the sublayer, $x + N(f(x))$. Is that post-norm again?",
        """
        No: the norm is on the branch and the stream itself stays untouched, so the free path is still there. It
        bounds how much a sublayer may add, whatever its weights grow to.
        """,
    )


@torch.no_grad()
def change_of_output(norm, num_layers):
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(64, 16, 32, num_layers, 4, d_ff=96, norm=norm))
    ids = torch.randint(64, (8, 16))
    before = model.hidden_states(ids)
    for weight in model.layers.parameters():
        if weight.dim() == 2:
            weight += 0.01 * weight.std() * torch.randn_like(weight)
    return ((model.hidden_states(ids) - before).norm() / before.norm()).item()


def the_norm_itself():
    text("## What the norm computes")
    text(r"""
        LayerNorm subtracts the mean and divides by the standard deviation; RMSNorm {zhang} only divides:

        $$\text{RMSNorm}(x)_i = \frac{x_i}{\sqrt{\frac1d \sum_j x_j^2 + \varepsilon}}\, g_i$$
    """, zhang=WORKS["zhang"])  # fmt: skip
    x = torch.tensor([3.0, -4.0, 0.0, 0.0])  # @inspect x
    y = rms_norm(x, torch.ones(4))  # @inspect y @stepover
    scaled = rms_norm(10 * x, torch.ones(4))  # @inspect scaled @stepover
    assert torch.allclose(y, x / 2.5, atol=1e-5) and torch.allclose(scaled, y, atol=1e-5)
    text("The root mean square of (3, -4, 0, 0) is 2.5. The length of the input is forgotten, its direction kept.")
    text("### Why save a subtraction?")
    text("In FLOPs the norm is nothing. But a processor must also move its numbers. One block of LLaMA 7B, in 16 bits:")
    costs = operation_costs(CONFIGS["LLaMA 7B"], batch_size=1, element_bytes=2)  # @inspect costs @stepover
    counts = {"RMSNorm": 2, "projection": 4, "attention, fused": 1, "feed-forward up": 3, "SwiGLU gate": 1}
    flops = {name: times * costs[name][0] for name, times in counts.items()}
    moved = {name: times * costs[name][1] for name, times in counts.items()}  # @inspect moved
    share_of_flops = flops["RMSNorm"] / sum(flops.values())  # @inspect share_of_flops
    share_of_bytes = moved["RMSNorm"] / sum(moved.values())  # @inspect share_of_bytes
    assert share_of_flops < 0.0002 and 0.05 < share_of_bytes < 0.08
    text("""
        {flops:.3%} of the FLOPs, {bytes:.1%} of the bytes, and that is with the best possible code, which reads and
        writes each number once. {ivanov} measured a BERT layer in PyTorch as it was then: norms and softmax had
        0.17 % of the FLOPs and 25.5 % of the time. So what is saved is *passes over memory*: no mean, no bias to
        load. Quality is the same, and the code is shorter.
    """, flops=share_of_flops, bytes=share_of_bytes, ivanov=WORKS["ivanov"])  # fmt: skip
    text("""
        **Biases** went the same way: they cost memory traffic, buy nothing measurable, and {palm} report that
        training large models is more stable without them.
    """, palm=WORKS["chowdhery"])  # fmt: skip
    text("**Trap:** the mean square must be taken in float32. In float16, squares overflow from 256 on; in bfloat16, "
         "they are good to two or three digits.")  # fmt: skip
    half = torch.tensor(300.0, dtype=torch.float16)
    overflow = half * half  # @inspect overflow
    assert overflow.isinf()
    exercise("Write `RMSNorm`, in float32 inside.", function=RMSNorm, test="tests/test_model.py")


def feed_forward():
    text("## The feed-forward network grows a gate")
    text(r"""
        $$\text{FFN}(x) = W_2\, \text{ReLU}(W_1 x) \qquad\longrightarrow\qquad
        \text{SwiGLU}(x) = W_2\,\big(\text{SiLU}(W_1 x) \odot W_3 x\big), \quad \text{SiLU}(u) = u\,\sigma(u)$$

        In a gated unit one half of the hidden layer decides how much of the other half passes {shazeer}. The second
        matrix is new, so at width $d_{ff} = 4d$ the parameters would grow from $8d^2$ to $12d^2$. To compare fairly:

        $$3\, d\, d_{ff} = 8\, d^2 \quad\Rightarrow\quad d_{ff} = \tfrac{8}{3}\, d$$
    """, shazeer=WORKS["shazeer"])  # fmt: skip
    d_model = 4096
    fair = 8 * d_model / 3  # @inspect fair
    llama = CONFIGS["LLaMA 7B"].d_ff  # @inspect llama
    assert llama == 256 * math.ceil(fair / 256)
    text("""
        For $d = 4096$ that is {fair:.0f}; LLaMA has {llama:,}, the next multiple of 256, since hardware likes round
        numbers. Below, `gate` is what passes: near zero for very negative $u$, near $u$ for large $u$.
    """, fair=fair, llama=llama)  # fmt: skip
    u = torch.tensor([-6.0, -1.0, 0.0, 1.0, 6.0])  # @inspect u
    gate = silu(u)  # @inspect gate @stepover
    assert abs(gate[0]) < 0.02 and 5.9 < gate[-1] < 6
    text("Why does it help? The paper: *we offer no explanation as to why these architectures seem to work; we "
         "attribute their success, as all else, to divine benevolence.*")  # fmt: skip
    exercise("Write `SwiGLU`.", function=SwiGLU, test="tests/test_model.py")


def a_small_race():
    text("## A race on a laptop")
    text("Small models of two blocks, with the same number of parameters up to the norms, on 200 KB of stories:")
    tokens = story_bytes(200_000)  # @inspect tokens @stepover
    curves, sizes = {}, {}
    for norm, ffn in [("pre", "swiglu"), ("post", "swiglu"), ("none", "swiglu"), ("pre", "relu")]:  # @inspect norm ffn
        curves[norm, ffn], sizes[norm, ffn] = train(tokens, norm, ffn)  # @stepover
    assert max(sizes.values()) < 1.01 * min(sizes.values())
    final = {kind: np.mean(curve[-25:]) for kind, curve in curves.items()}  # @inspect final
    rows = "\n".join(f"| {norm} | {ffn} | {sizes[norm, ffn]:,} | {final[norm, ffn]:.3f} |" for norm, ffn in final)
    text("| norm | feed-forward | parameters | loss, nats per byte |\n|---|---|---|---|\n{rows}", rows=rows)
    order = sorted(final, key=final.get)  # @inspect order
    lead = final[order[1]] - final[order[0]]  # @inspect lead
    again = np.mean(train(tokens, *order[0], seed=1)[0][-25:])  # @inspect again @stepover
    change = abs(again - final[order[0]])  # @inspect change
    assert all(loss < 2 for loss in final.values()) and lead < 0.2 and change < 0.2
    text("""
        The winner is {norm}-norm with {ffn}, {lead:.3f} nats before the second. Now the winner again with another seed:
        {again:.3f}, a change of {change:.3f}. *One run each says nothing about which is best*, and that is the lesson: at
        two blocks and 75 steps everything trains, even without norms. What separates these choices is depth, size and
        length, as the two curves above showed without any training.
    """, norm=order[0][0], ffn=order[0][1], lead=lead, again=again, change=change)  # fmt: skip
    exercise(
        "Run the ablations of assignment 1 (`layer_norm_ablation`, `pre_norm_ablation`, `swiglu_ablation`), with two "
        "seeds each.",
        test="tests/unit/basics/test_ablations.py",
    )


def story_bytes(num_bytes):
    rng, pieces, size = random.Random(0), [], 0
    while size < num_bytes:
        pieces.append(generate_story(rng).text.encode() + b"\n")
        size += len(pieces[-1])
    return np.frombuffer(b"".join(pieces)[:num_bytes], dtype=np.uint8)


def train(tokens, norm, ffn, seed=0):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    width = {"swiglu": 128, "relu": 192}[ffn]  # 3 x 128 = 2 x 192
    model = TransformerLM(ModelConfig(256, 32, 48, 2, 4, d_ff=width, norm=norm, ffn=ffn))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    curve = []
    for _ in range(75):
        x, y = get_batch(tokens, 8, 32, "cpu", generator=generator)
        loss = cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve, sum(p.numel() for p in model.parameters())


def side_by_side():
    text("## One after the other, or side by side?")
    text(r"""
        GPT-J and PaLM compute both sublayers from the same input, $x + \text{attn}(N(x)) + \text{ffn}(N(x))$. Then
        the first matrices of both can be one product, and one norm is saved. {palm} report about 15 % more speed at
        large scale and no loss of quality at 62 billion parameters, a small one at 8 billion.
    """, palm=WORKS["chowdhery"])  # fmt: skip
    places = {place: ModelConfig(256, 16, 32, 2, 4, norm=place) for place in ("pre", "parallel", "sandwich")}
    norms = {place: parameter_counts(c)["norms"] // 32 for place, c in places.items()}  # @inspect norms @stepover
    assert norms == {"pre": 5, "parallel": 3, "sandwich": 9}
    text("Norms in a model of two blocks, the last one before the head included. Most models of today stay serial.")
    exercise("Write the parallel block.", function=ParallelBlock, test="tests/unit/basics/test_variants.py")


def rotary_positions():
    text("## Positions that rotate")
    text(r"""
        Attention does not know the order of its inputs. In 2017 a vector per position was added to the embedding;
        then a score between positions $m$ and $n$ contains $q^\top k$ and three more terms with absolute positions
        in them. What we want is a score that depends on the *distance* alone. {su}: take two coordinates as one
        complex number and turn it by an angle proportional to its position. For query $q$ at $m$ and key $k$ at $n$

        $$\operatorname{Re}\Big[ (q e^{i m\theta})\, \overline{(k e^{i n\theta})} \Big]
        = \operatorname{Re}\Big[ q\, \bar k\, e^{i (m-n)\theta} \Big]$$

        and $m$ and $n$ are gone but for their difference. With $d/2$ pairs, pair $j$ turns by
        $\theta_j = \Theta^{-2j/d}$ per token: the first pair once in $2\pi$ tokens, the last in almost $2\pi\Theta$.
    """, su=WORKS["su"])  # fmt: skip
    rope = RotaryPositionalEmbedding(10_000.0, 64, 2048)  # @stepover
    q, k = torch.randn(64), torch.randn(64)  # @inspect q k
    scores = {offset: [score(rope, q, k, m, m - offset) for m in (300, 1000, 2000)] for offset in (0, 1, 10, 200)}
    assert all(max(row) - min(row) < 1e-3 for row in scores.values())  # @inspect scores
    every = [[score(rope, q, k, m, m - offset) for m in (300, 1000, 2000)] for offset in range(0, 300, 7)]  # @stepover
    error = max(max(row) - min(row) for row in every) / (q.norm() * k.norm())  # @inspect error
    assert error < 1e-5
    text("""
        Each row has the same offset at three places of a text. They agree to {error:.0e} of the largest possible
        score: float32 rounding of angles up to 2000.
    """, error=error)  # fmt: skip
    text("### Two things follow")
    length = rope(q[None], torch.tensor([1234])).norm() - q.norm()  # @inspect length @stepover
    assert abs(length) < 1e-4
    text("A rotation keeps lengths, so nothing is added to the stream and values carry no position at all.")
    short, long = [mean_cosine(theta, 64) for theta in (10_000.0, 500_000.0)]  # @stepover
    plot(plot_overlaid_curves(
             {"base 10,000": short, "base 500,000": long}, xlabel="distance in tokens", ylabel="score of equal vectors"
         ),
         alt="Score of two equal vectors over their distance: it falls, more slowly with the larger base.")  # fmt: skip
    assert short[0][1] == long[0][1] == 1 and short[-1][1] < long[-1][1]
    text(r"""
        And two *equal* vectors, with the same length in each pair, score $\frac{2}{d}\sum_j \cos(\theta_j \cdot
        \text{distance})$, which falls as pairs run out of step, while slow pairs hold it up. Llama 3 took the base
        500,000 for its long context.
    """)
    exercise("Write `RotaryPositionalEmbedding`.", function=RotaryPositionalEmbedding, test="tests/test_model.py")


def score(rope, q, k, m, n):
    turned_q, turned_k = rope(q[None], torch.tensor([m])), rope(k[None], torch.tensor([n]))  # @stepover
    return (turned_q @ turned_k.T).item()


def mean_cosine(theta, d_head):
    angles = theta ** (-torch.arange(0, d_head, 2) / d_head)
    return [(distance, torch.cos(distance * angles).mean().item()) for distance in range(0, 4096, 32)]


def rotary_traps():
    text("### Traps")
    text("**Which pairs?** The paper turns neighbours (0, 1), (2, 3), ...; checkpoints in Hugging Face's format turn "
         "coordinate $j$ with $j + d/2$. Both are right, and weights of one kind in code of the other give nonsense:")  # fmt: skip
    config = ModelConfig(256, 16, 32, 1, 4)  # @stepover
    halves = ModelConfig(256, 16, 32, 1, 4, rope_pairs="halves")  # @stepover
    torch.manual_seed(0)
    model, other = TransformerLM(config), TransformerLM(halves)  # @stepover
    other.load_state_dict(model.state_dict())  # @stepover
    ids = torch.arange(16)[None]
    difference = (model(ids) - other(ids)).abs().amax(dim=(0, 2))  # @inspect difference @stepover
    assert difference[0] < 1e-5 < 1e-2 < difference[8:].max()
    text("At position 0 nothing is turned, so the first logits agree and a careless test passes.")
    text("**Where?** On queries and keys, after they are split into heads, in every layer; not on values, not on the "
         "embedding. **Cached keys** are stored turned, so positions of later tokens must go on counting.")  # fmt: skip


def ten_models():
    text("## Ten published models, counted")
    text("Sizes as published, ratios and parameters computed by our own accounting from the configuration:")
    rows, errors = [], {}
    for name, config in CONFIGS.items():  # @every 3
        parameters = sum(parameter_counts(config).values()) / 1e9  # @inspect name parameters @stepover
        errors[name] = parameters / PUBLISHED[name]["billions"] - 1
        rows.append(row_of(name, config, parameters))  # @stepover
    assert all(abs(error) < 0.02 for error in errors.values())  # @inspect errors
    sources = "; ".join(f"{name}, {entry['source']}" for name, entry in PUBLISHED.items())
    head = "| model | $d$ | layers | heads/kv | vocabulary | ffn | $d_{ff}/d$ | $h d_h/d$ | $d/L$ | $10^9$ |"
    text("{head}\n{line}\n{rows}", head=head, line="|---" * 10 + "|", rows="\n".join(rows))
    text("""
        All counts lie within {worst:.1%} of what the reports say. (GPT-2's and GPT-3's biases
        outside of queries, keys and values are left out, and OLMo 2 puts its norms elsewhere, which changes no count.) Sources: {sources}.
    """, worst=max(abs(error) for error in errors.values()), sources=sources)  # fmt: skip
    exercise("Compute parameters and FLOPs of GPT-2 XL by hand (`transformer_accounting`).",
             function=parameter_counts, test="tests/unit/basics/test_accounting.py")  # fmt: skip


def row_of(name, c, billions):
    ratios = f"{c.d_ff / c.d_model:.2f} | {c.num_heads * c.d_head / c.d_model:.2f} | {c.d_model / c.num_layers:.0f}"
    shape = f"{c.d_model:,} | {c.num_layers} | {c.num_heads}/{c.kv_heads} | {c.vocab_size:,} | {c.ffn}"
    return f"| {name} | {shape} | {ratios} | {billions:,.1f} |"


def the_ratios():
    text("### What is agreed upon, what is not")
    widths = {name: c.d_ff / c.d_model for name, c in CONFIGS.items()}  # @inspect widths
    heads = {name: c.num_heads * c.d_head / c.d_model for name, c in CONFIGS.items()}  # @inspect heads
    aspects = {name: c.d_model / c.num_layers for name, c in CONFIGS.items()}  # @inspect aspects
    assert all(widths[name] == 4 for name in ("GPT-2 XL", "GPT-3", "PaLM")) and 2.6 < widths["LLaMA 7B"] < 2.7
    assert sum(share == 1 for share in heads.values()) == 8 and 0.6 < heads["PaLM"] < 0.7 < 1.3 < heads["Gemma 7B"]
    assert min(aspects.values()) > 30 and sum(95 < aspect < 160 for aspect in aspects.values()) >= 8
    text(r"""
        - **$d_{ff}/d$**: 4 without a gate, $8/3$ to 4 with one; Gemma's 8 is the exception.
        - **heads x width of a head** is $d$ in eight of ten. More heads are narrower heads,
          and a head's scores have at most the rank of its width, 64 to 256 here.
        - **$d/L$**, the aspect ratio: about 100 to 160 in most. Depth costs latency, since layers wait for each
          other, and width is easier to split over machines.
        - **Vocabulary**: 32,000 to 50,000 for one language, 100,000 to 256,000 for many.
    """)
    text("""
        {kaplan} varied these ratios at a fixed number of parameters: the loss has a wide flat valley, in which a
        factor of two in any of them costs a few percent at most. The boldest outlier, T5 with 11 billion parameters
        {raffel}, had a $d_{ff}$ of 65,536 at $d$ = 1024:
    """, kaplan=WORKS["kaplan"], raffel=WORKS["raffel"])  # fmt: skip
    t5, t5_later = 65_536 / 1024, 10_240 / 4096  # @inspect t5 t5_later
    assert t5 == 64 and t5_later == 2.5
    text("A ratio of {t5:.0f}. It worked. Its successor T5 v1.1 went to {later}.", t5=t5, later=t5_later)
    quiz(
        "You may add 20 % more parameters. Deeper or wider?",
        "For the loss it hardly matters. For speed, wider: larger matrices use a GPU better and fewer layers wait for "
        "each other.",
    )


def regularisation():
    text("## Dropout went, weight decay stayed")
    text("""
        A run that sees each token once cannot overfit, so dropout is rare in pre-training today. But nearly everybody
        keeps a weight decay of 0.1. Why, if not against overfitting?
    """)
    text("In front of a norm, the size of a matrix does not matter, but its gradient does depend on it:")
    torch.manual_seed(0)
    x, w = torch.randn(8, 16), torch.randn(16, 16)
    sizes = {}
    for factor in (1.0, 2.0, 4.0):  # @inspect factor
        weight = (factor * w).requires_grad_()
        y = rms_norm(x @ weight.T, torch.ones(16), 0.0)  # @inspect y @stepover
        y.square().sum(dim=0)[0].backward()  # @stepover
        sizes[factor] = weight.grad.norm().item()  # @inspect sizes
    assert math.isclose(sizes[1.0] / sizes[4.0], 4, rel_tol=1e-3)
    text(r"""
        The output is the same, the gradient shrinks as $1/\lVert W \rVert$, and the share by which a step changes
        $W$ even as $1/\lVert W\rVert^2$ under SGD. Steps at right angles to $W$ make it grow, and so learning would
        slow down by itself. Weight decay holds the size and thereby the *effective learning rate*; its benefit shows
        in the training loss itself {why}.
    """, why=WORKS["andriushchenko"])  # fmt: skip
    exercise("Write AdamW, with decoupled weight decay.", function=AdamW, test="tests/test_optimizer.py")


def the_softmax_at_the_end():
    text("## Stability: beware of exponentials")
    text("There are two softmaxes in a Transformer, and most failures of large runs begin in one of them.")
    text(r"""
        **The one at the end.** $-\log p_y = \log Z - z_y$ with $Z = \sum_v e^{z_v}$ does not change when a constant
        is added to all logits, so nothing keeps $\log Z$ from drifting away to where 16-bit numbers are coarse. The
        **z-loss** adds $10^{-4} (\log Z)^2$ {palm}:
    """, palm=WORKS["chowdhery"])  # fmt: skip
    logits = torch.tensor([[2.0, 1.0, 0.0]], requires_grad=True)  # @inspect logits
    target = torch.tensor([0])
    losses = [cross_entropy(logits + shift, target).item() for shift in (0.0, 30.0)]  # @inspect losses @stepover
    log_z = logsumexp(logits, dim=-1)  # @inspect log_z @stepover
    (1e-4 * z_loss(log_z)).backward()  # @stepover
    gradient = logits.grad  # @inspect gradient
    expected = 1e-4 * 2 * log_z.detach() * softmax(logits.detach(), dim=-1)  # @stepover
    assert torch.allclose(gradient, expected) and abs(losses[0] - losses[1]) < 1e-5
    text(r"""
        Its gradient is $2 \cdot 10^{-4} \log Z \cdot p_v$: all logits are pulled towards $\log Z = 0$, the likely
        ones most, and gently.
    """)
    exercise("Show that the gradient of the z-loss is $2 \\log Z\\, p$.", function=z_loss,
             test="tests/unit/basics/test_chunked_loss.py")  # fmt: skip


def the_softmax_inside():
    text(r"""
        **The one in attention.** Scores are products of queries and keys, so if both grow by a factor, scores grow
        by its square, and softmax becomes a hard choice without gradient. **QK-norm** normalises queries and keys
        {dehghani}: then $|q^\top k|/\sqrt{d} \le \sqrt{d}$, whatever the weights (the gains aside). **Soft-capping**
        bounds the scores, $s \leftarrow c \tanh(s/c)$, with $c = 50$ {gemma}.
    """, dehghani=WORKS["dehghani"], gemma=WORKS["gemma2"])  # fmt: skip
    torch.manual_seed(0)
    q, k = torch.randn(128, 64), torch.randn(128, 64)
    ones, sizes = torch.ones(64), (1.0, 2.0, 4.0, 8.0, 16.0)
    entropies = {"plain": [], "soft cap 50": [], "QK-norm": []}  # @inspect entropies
    for size in sizes:  # @inspect size @every 2
        scores = (size * q) @ (size * k).T / 8  # @inspect scores
        entropies["plain"].append((size, entropy(scores)))  # @stepover
        entropies["soft cap 50"].append((size, entropy(softcap(scores, 50.0))))  # @stepover
        normed = rms_norm(size * q, ones) @ rms_norm(size * k, ones).T / 8  # @inspect normed @stepover
        assert normed.abs().max() <= 8.01
        entropies["QK-norm"].append((size, entropy(normed)))  # @stepover
    plot(plot_overlaid_curves(entropies, xlabel="size of queries and keys", ylabel="entropy of attention, nats"),
         alt="Entropy of attention over the size of queries and keys: it falls to zero plainly, stays with QK-norm.")  # fmt: skip
    plain, kept = entropies["plain"][-1][1], entropies["QK-norm"][-1][1]
    assert plain < 0.1 < 4 < kept
    text("""
        With queries and keys 16 times as large, plain attention has an entropy of {plain:.2f} nats (each query reads
        a single key), with QK-norm {kept:.2f} of at most {most:.2f}.
    """, plain=plain, kept=kept, most=math.log(128))  # fmt: skip
    exercise("Put QK-norm into attention.", function=ConfigurableAttention, test="tests/unit/basics/test_variants.py")


def entropy(scores):
    p = softmax(scores, dim=-1)
    return -(p * p.clamp(min=1e-30).log()).sum(dim=-1).mean().item()


def shared_heads():
    text("## Keys and values are shared")
    text("""
        Training does not mind keys and values per head. *Decoding* does: all of them are kept for every token, and
        read again for each new one. In grouped-query attention several query heads share one key head {ainslie}.
        A model of the size of Llama 3 8B, bytes of cache per token in 16 bits:
    """, ainslie=WORKS["ainslie"])  # fmt: skip
    cache, weights = {}, {}
    for kv_heads in (32, 8, 1):  # @inspect kv_heads
        config = ModelConfig(128_256, 8192, 4096, 32, 32, d_ff=14_336, num_kv_heads=kv_heads)  # @stepover
        cache[kv_heads] = 2 * cached_numbers(config, 1)  # @inspect cache @stepover
        weights[kv_heads] = sum(parameter_counts(config).values()) / 1e9  # @inspect weights @stepover
    assert cache == {32: 512 * 1024, 8: 128 * 1024, 1: 16 * 1024}
    text("""
        {many:.0f} KiB per token become {grouped:.0f} KiB with 8 heads, the choice of most models of today, and
        {single:.0f} KiB with one (multi-query). The quality of 8 is close to that of 32. Lecture 10 turns this into
        tokens per second.
    """, many=cache[32] / 1024, grouped=cache[8] / 1024, single=cache[1] / 1024)  # fmt: skip


def sliding_window():
    text("### See only the neighbourhood")
    text(r"""
        A layer may also look at the last $w$ tokens only. Information still travels further, by $w - 1$ tokens per
        layer. Which earlier inputs does the last of 16 positions depend on, with $w = 4$ and 3 layers?
    """)
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(64, 16, 32, 3, 4, attention_window=4))  # @stepover
    embedded = model.token_embeddings(torch.arange(16)[None]).detach().requires_grad_()  # @stepover
    x = embedded
    for layer in model.layers:
        x = layer(x, torch.arange(16))  # @stepover
    x[0, -1].sum().backward()  # @stepover
    influence = embedded.grad[0].norm(dim=-1)  # @inspect influence
    reach = 15 - int(influence.nonzero()[0])  # @inspect reach
    assert reach == 3 * (4 - 1)
    text("{reach} positions back: 3 layers of 3 steps. For Mistral 7B {jiang}, window 4096 and 32 layers:", reach=reach,
         jiang=WORKS["jiang"])  # fmt: skip
    config = CONFIGS["Mistral 7B"]
    mistral = config.num_layers * (config.attention_window - 1)  # @inspect mistral
    everything = replace(config, attention_window=None)  # @stepover
    saved = cached_numbers(everything, 32_768) / cached_numbers(config, 32_768)  # @inspect saved @stepover
    assert mistral > 131_000 and 7.9 < saved < 8.1
    text("""
        {mistral:,} tokens in principle, with a cache {saved:.0f} times smaller at 32,768 tokens. *In principle*: what
        has passed through many layers is faint, so newer models mix, say, three or five windowed layers with one that
        sees everything.
    """, mistral=mistral, saved=saved)  # fmt: skip
    exercise("Write attention with a window without ever making a $T \\times T$ matrix.", function=attention_by_rules,
             test="tests/unit/basics/test_variants.py")  # fmt: skip


def summary():
    text("## What to take home")
    text(r"""
        - Keep the residual stream free of norms: a deep pre-norm model answers a step more calmly.
        - RMSNorm, no biases: the same quality, less data moved. SwiGLU with $d_{ff} = \frac83 d$ at equal parameters.
        - Rotary positions make scores depend on distance alone.
        - Ratios have a wide valley: $d_{ff}/d$ of 8/3 to 4, heads that tile $d$, $d/L$ of about 100 to 160.
        - Bound what goes into an exponential: z-loss, QK-norm, soft caps.
        - Share keys and values for the sake of decoding.
    """)
    text("*Next: more parameters for the same FLOPs, and attention at less than quadratic cost.*")


if __name__ == "__main__":
    main()

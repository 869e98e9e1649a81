"""Inference: what a token costs once the model is trained.

Lecture 10 of the course: prefill and decoding, arithmetic intensity, latency against throughput, smaller caches,
quantization, pruning, speculative sampling, continuous batching, and a paged cache. It prepares assignment 1, problem
`decoding`, and uses `cs336_systems/inference`. Left out: kernels for decoding (lecture 6). Read next: `lecture_11.py`.
"""

import json
import math
from pathlib import Path

import numpy as np
import sympy
import torch

from cs336_basics.accounting import cached_numbers, forward_flops, parameter_counts
from cs336_basics.generation import generate
from cs336_basics.kv_cache import KVCache
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import softmax
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_basics.variants.configs import LatentAttentionConfig
from cs336_basics.variants.latent_attention import LatentAttention
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.kv_cache import OutOfPages, PagedKVCache, PagedSequence
from cs336_systems.inference.model_runner import ModuleRunner
from cs336_systems.inference.quantization import dequantize_rows, quantize_linears, quantize_rows
from cs336_systems.inference.sampling import SamplingParams
from cs336_systems.inference.speculative import ModelDrafter, accept_drafts, speculative_generate
from cs336_systems.roofline import Peaks
from cs336_systems.timing import time_call
from lectures.content import Reference, exercise, plot, quiz, text

DATA = Path(__file__).parent / "data"
WORKS = {key: Reference(**work) for key, work in json.loads((DATA / "works.json").read_text(encoding="utf-8")).items()}
CHIP = json.loads((DATA / "gpus.json").read_text(encoding="utf-8"))["H100"]
PEAKS = Peaks(CHIP["bf16"] * 1e12, CHIP["tb_s"] * 1e12)
LLAMA_13B = {"vocab_size": 32_000, "context_length": 4096, "d_model": 5120, "num_layers": 40, "num_heads": 40,
             "d_ff": 13_824}  # fmt: skip
TINY = ModelConfig(vocab_size=64, context_length=256, d_model=64, num_layers=2, num_heads=4)


def main():
    text("# Inference")
    text("*Lecture 10: what a token costs once the model is trained*")
    three_numbers()
    the_cache()
    faster_on_this_machine()
    intensity_of_the_feed_forward()
    intensity_of_attention()
    a_real_model()
    latency_or_throughput()
    smaller_caches()
    eight_bits()
    four_bits()
    smaller_models()
    speculation()
    the_proof()
    speculation_for_real()
    how_many_drafts()
    continuous_batching()
    pages()
    copy_on_write()
    summary()


def three_numbers():
    text("## Three numbers")
    text("""
        A model is trained once and used for years: chat, completion of code, evaluation, and the rollouts of
        reinforcement learning are all inference. Three numbers say how good it is:

        - **time to first token** (TTFT): how long the user waits before anything happens;
        - **latency**: seconds from token to token of *one* answer;
        - **throughput**: tokens per second of *all* answers together.

        What makes it hard: in training all tokens of a text are known and are computed side by side. In generation
        each token needs the one before it {pope}.
    """, pope=WORKS["pope"])  # fmt: skip


def the_cache():
    text("## Prefill, then decode")
    text(r"""
        Naively, each new token costs a forward pass over all tokens so far. But keys and values of earlier tokens
        never change, because attention is causal. Keep them, and a step needs the new token only:

        - **prefill**: the prompt, all tokens at once, fills the cache;
        - **decode**: one token at a time, reads the whole cache and adds one entry.
    """)
    torch.manual_seed(0)
    model = TransformerLM(TINY).eval()  # @stepover
    ids = torch.randint(64, (1, 8))  # @inspect ids
    with torch.no_grad():
        whole = model(ids)  # @inspect whole @stepover
        cache = model.new_cache(1, 256)  # @stepover
        pieces = [model(ids[:, :4], cache, 0)]  # @stepover
        for position in range(4, 8):  # @inspect position
            pieces.append(model(ids[:, position : position + 1], cache, position))  # @stepover
            held = cache[0].length  # @inspect held
    error = (torch.cat(pieces, dim=1) - whole).abs().max()  # @inspect error
    assert error < 1e-5 and held == 8
    text(
        "Prefill of 4 tokens and 4 steps give the logits of the whole pass, to rounding. And the FLOPs for 256 tokens:"
    )
    naive = sum(sum(forward_flops(TINY, t).values()) for t in range(1, 257))  # @stepover
    pass_of_all = sum(forward_flops(TINY, 256).values())  # @stepover
    saved = naive / pass_of_all  # @inspect saved
    assert 100 < saved < 128.5
    text("""
        {saved:.0f} times less, nearly half the number of tokens. (Decoding all 256 through the cache takes at most
        the FLOPs of one pass over all of them.)
    """, saved=saved)  # fmt: skip
    exercise("Write `generate` with a cache, temperature and top-p (`decoding`).", function=KVCache,
             test="tests/unit/basics/test_generation.py")  # fmt: skip


def faster_on_this_machine():
    text("### The same on this machine")
    torch.manual_seed(0)
    model, prompt = TransformerLM(TINY), torch.tensor([[1, 2, 3]])  # @stepover
    rows = {cached: speed(model, prompt, cached) for cached in (True, False)}  # @stepover
    assert rows[True][0] == rows[False][0]
    rates = {cached: rate for cached, (_, rate) in rows.items()}  # @inspect rates
    text("""
        The same 80 tokens, {fast:,.0f} per second with and {slow:,.0f} without a cache, on the machine that made this
        page. Only: for so small a model Python is the larger part of both.
    """, fast=rates[True], slow=rates[False])  # fmt: skip


def speed(model, prompt, cached):
    def work():
        return generate(model, prompt, 80, temperature=0, use_cache=cached, engine="plain")

    return work(), 80e3 / time_call(work, repeats=2).median_ms


def intensity_of_the_feed_forward():
    text("## Where does the time go? With symbols")
    text("""
        $B$ sequences, $T$ new tokens in each, width $D$, feed-forward width $F$, 16-bit numbers. SwiGLU reads $X$
        and three matrices, writes two wide intermediates and $Y$:
    """)
    B, T, D, F, c = sympy.symbols("B T D F c", positive=True)  # @stepover
    flops = 6 * B * T * D * F  # @inspect flops @stepover
    moved = 2 * (B * T * D + 3 * D * F + 2 * B * T * F + B * T * D)  # @inspect moved @stepover
    intensity = sympy.simplify(flops / moved)  # @inspect intensity @stepover
    wide = sympy.limit(intensity.subs({D: c * B * T, F: 3 * c * B * T}), c, sympy.oo)  # @inspect wide @stepover
    assert wide == B * T
    ridge = PEAKS.ridge  # @inspect ridge
    assert 295 < ridge < 296
    text(r"""
        For wide models the intensity is $B \cdot T$: every weight that is read serves $BT$ tokens. An H100 needs
        {ridge:.0f} FLOPs per byte. **Prefill** has $T$ in the thousands and is limited by arithmetic. **Decoding** has
        $T = 1$: one needs about {ridge:.0f} sequences at once.
    """, ridge=ridge)  # fmt: skip


def intensity_of_attention():
    text("### Attention is worse")
    text("""
        $T$ queries against $S$ keys, fused (FlashAttention): $Q$ and the result are moved once, $K$ and $V$ once.
        Scores and values take $4 B S T D$ FLOPs:
    """)
    B, S, T, D, N, K, H = sympy.symbols("B S T D N K H", positive=True)  # @stepover
    flops = 4 * B * S * T * D  # @inspect flops @stepover
    moved = 2 * (2 * B * T * D + 2 * B * S * D)  # @inspect moved @stepover
    intensity = sympy.simplify(flops / moved)  # @inspect intensity @stepover
    prefill = intensity.subs(T, S)  # @inspect prefill @stepover
    decode = intensity.subs(T, 1)  # @inspect decode @stepover
    assert sympy.simplify(intensity - S * T / (S + T)) == 0 and prefill == S / 2 and decode == S / (S + 1)
    text("""
        Prefill: $S/2$, good. Decoding: **below 1, and $B$ has cancelled**: every sequence has keys of its own, so a
        larger batch does not help. With $K$ key heads for $N$ query heads of width $H$:
    """)
    grouped = (4 * B * S * N * H) / (2 * (2 * B * N * H + 2 * B * S * K * H))  # @stepover
    many = sympy.limit(sympy.simplify(grouped), S, sympy.oo)  # @inspect many @stepover
    assert sympy.simplify(many - N / K) == 0
    text("$N/K$: each key that is read serves all queries of its group.")
    quiz("Why is attention in training not limited by memory?",
         "All positions are queries at once: each key that is on the chip meets many of them.")  # fmt: skip


def a_real_model():
    text("## A model of 13 billion parameters on an H100")
    text("""
        Since decoding waits for memory, the time of a step is the bytes that it reads over the bandwidth: all weights
        once (the table of embeddings among them, to be simple), and all caches. Llama 2 13B, 1024 tokens in each cache, 16 bits:
    """)
    table = {batch: decoding(ModelConfig(**LLAMA_13B), batch) for batch in (1, 64, 256)}
    parameters = sum(parameter_counts(ModelConfig(**LLAMA_13B)).values())  # @inspect parameters @stepover
    assert 13.01e9 < parameters < 13.02e9
    expected = ["| 1 | 26.9 | 8.0 | 125 |", "| 64 | 79.7 | 23.8 | 2,689 |", "| 256 | 240.8 | 71.9 | 3,562 |"]
    assert rows_of(table).splitlines() == expected
    text("| batch | memory, GB | step, ms | tokens per second |\n|---|---|---|---|\n{rows}", rows=rows_of(table))
    text("""
        At batch 64 all is just within 80 GB. At 256 it does not fit, and throughput has hardly grown, because by now
        nearly all bytes are caches. So the cache decides. With 8 key heads instead of 40 (and the smaller matrices
        that go with them):
    """)
    grouped = {batch: decoding(ModelConfig(**LLAMA_13B, num_kv_heads=8), batch) for batch in (1, 64, 256)}  # @stepover
    assert rows_of(grouped).splitlines()[1:] == ["| 64 | 33.4 | 10.0 | 6,417 |", "| 256 | 65.6 | 19.6 | 13,068 |"]
    text("| batch | memory, GB | step, ms | tokens per second |\n|---|---|---|---|\n{rows}", rows=rows_of(grouped))
    text("""
        Now 256 sequences fit, at {times:.1f} times the throughput. These are lower bounds of the time: no step can
        be faster, real ones are somewhat slower.
    """, times=grouped[256]["tokens/s"] / table[64]["tokens/s"])  # fmt: skip


def decoding(config, batch, tokens=1024):  # @inspect batch
    weights = 2 * sum(parameter_counts(config).values())  # @inspect weights @stepover
    cache = 2 * batch * cached_numbers(config, tokens)  # @inspect cache @stepover
    seconds = (weights + cache) / PEAKS.bandwidth  # @inspect seconds
    return {"GB": (weights + cache) / 1e9, "ms": 1e3 * seconds, "tokens/s": batch / seconds}


def rows_of(table):
    return "\n".join(f"| {b} | {r['GB']:.1f} | {r['ms']:.1f} | {r['tokens/s']:,.0f} |" for b, r in table.items())


def latency_or_throughput():
    text("### Latency or throughput?")
    batches = [2**i for i in range(10)]
    curves = {
        name: [(row["ms"], row["tokens/s"]) for row in (decoding(config, batch) for batch in batches)]
        for name, config in [("40 key heads", ModelConfig(**LLAMA_13B)),
                             ("8 key heads", ModelConfig(**LLAMA_13B, num_kv_heads=8))]
    }  # @stepover # fmt: skip
    plot(plot_overlaid_curves(curves, xlabel="ms per step", ylabel="tokens per second"),
         alt="Throughput over latency for batches of 1 to 512: steep at first, then flat; higher with 8 key heads.")  # fmt: skip
    text("""
        Each point is a batch, from 1 to 512. A larger batch serves more people and makes each wait longer. The left
        end is where weights dominate and more sequences are nearly free; the flat right end is where caches dominate.
        Two copies of the model on two GPUs double the throughput at the same latency; splitting one model over two
        GPUs lowers the latency.
    """)
    config = ModelConfig(**LLAMA_13B)  # @stepover
    flops = sum(forward_flops(config, 1024).values())  # @inspect flops @stepover
    first_ms = 1e3 * flops / PEAKS.flops  # @inspect first_ms
    assert 26 < first_ms < 30
    text("""
        And the first token? A prompt of 1024 tokens takes {ms:.0f} ms of arithmetic at the peak, as long as {steps:.1f}
        steps of decoding. That is why prefill goes in small batches or on other machines.
    """, ms=first_ms, steps=first_ms / decoding(config, 1)["ms"])  # fmt: skip


def smaller_caches():
    text("## Remedy 1: a smaller cache")
    text("Megabytes of cache of one sequence of 32,768 tokens, for the 13B model:")
    long = LLAMA_13B | {"context_length": 32_768}
    choices = {
        "all heads": ModelConfig(**long),
        "8 key heads": ModelConfig(**long, num_kv_heads=8),
        "5 of 6 layers see 1024 tokens": ModelConfig(
            **long, attention_window=1024, mixers=("window",) * 5 + ("attention",)
        ),
    }  # @stepover
    megabytes = {
        name: 2 * cached_numbers(config) / 1e6 for name, config in choices.items()
    }  # @inspect megabytes @stepover
    assert megabytes["all heads"] == 5 * megabytes["8 key heads"]
    times = megabytes["all heads"] / megabytes["5 of 6 layers see 1024 tokens"]  # @inspect times
    assert 5 < times < 6.5
    text("""
        - **Grouped queries** {ainslie}: keys per group of heads. A factor of 5 here.
        - **Local layers**: most layers see a window, a few see all: {times:.1f} times less. Both remedies multiply.
        - **Cross-layer attention** {brandon}: neighbouring layers share keys and values; with pairs, a factor of 2.
    """, ainslie=WORKS["ainslie"], times=times, brandon=WORKS["brandon"])  # fmt: skip
    text(r"""
        - **Latent attention** (MLA, {deepseek}): cache one small vector per token, from which every head makes its
          own keys and values. Because $(U_h c)^\top q = c^\top (U_h^\top q)$, the query can be carried to the vector
          instead. A rotation between the two would spoil this, so positions get 64 coordinates of their own:
    """, deepseek=WORKS["deepseek2"])  # fmt: skip
    sizes = LatentAttentionConfig(kv_rank=512, q_rank=1536, content_dim=128, rope_dim=64, value_dim=128)
    base = {"vocab_size": 102_400, "d_model": 5120, "num_layers": 60, "num_heads": 128}
    plain = cached_numbers(ModelConfig(**base, head_dim=128), 1) / 60  # @inspect plain @stepover
    latent = cached_numbers(ModelConfig(**base, latent_attention=sizes), 1) / 60  # @inspect latent @stepover
    assert plain == 2 * 16_384 and latent == 512 + 64
    text("""
        DeepSeek-V2 keeps {latent:.0f} numbers per token and layer instead of {plain:,.0f} (keys and values of 16,384
        each): {times:.0f} times less, as little as grouped queries with {groups:.2f} key heads, at the quality of full
        heads or better, by their report.
    """, latent=latent, plain=plain, times=plain / latent, groups=latent / 256)  # fmt: skip
    exercise("Show that both forms of latent attention give the same output.", function=LatentAttention,
             test="tests/unit/basics/test_variants.py")  # fmt: skip


def eight_bits():
    text("## Remedy 2: fewer bits")
    text(
        "Weights need not have 16 bits. Eight, with a scale per row, $q = \\text{round}(w / s)$, $s = \\max|w| / 127$:"
    )
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(256, 256, generator=generator) / 16
    quantized, scale = quantize_rows(weight)  # @inspect quantized scale @stepover
    error = (dequantize_rows(quantized, scale) - weight).abs() / scale[:, None]  # @inspect error @stepover
    assert error.max() <= 0.5001
    text("No weight moves by more than half a step. At batch 1 a step of the 13B model reads half the weights:")
    config = ModelConfig(**LLAMA_13B)  # @stepover
    read = sum(parameter_counts(config).values()) + 2 * cached_numbers(config, 1024)  # @inspect read @stepover
    ms = {"16 bits": decoding(config, 1)["ms"], "8 bits": 1e3 * read / PEAKS.bandwidth}  # @inspect ms @stepover
    assert 4.1 < ms["8 bits"] < 4.2
    text("### Trap: outliers")
    text("""
        Rounding *activations* too would speed up the arithmetic. But in large models a few coordinates are many times
        larger than the rest {dettmers}; they set the scale, and everything else is rounded away:
    """, dettmers=WORKS["dettmers"])  # fmt: skip
    x = torch.randn(64, 256, generator=generator)
    x[:, 7] *= 60
    exact = x @ weight.T
    rounded = dequantize_rows(*quantize_rows(x)) @ weight.T  # @stepover
    rest = x.clone()
    rest[:, 7] = 0
    split = dequantize_rows(*quantize_rows(rest)) @ weight.T + x[:, 7:8] @ weight[:, 7:8].T  # @stepover
    errors = {
        "all int8": relative(rounded - exact, exact),
        "outlier apart": relative(split - exact, exact),
    }  # @inspect errors @stepover
    assert errors["all int8"] > 10 * errors["outlier apart"]
    text("""
        With the one outlier column kept in 16 bits the error falls from {all:.1%} to {apart:.2%}. That is LLM.int8():
        columns with outliers apart, all others in int8.
    """, all=errors["all int8"], apart=errors["outlier apart"])  # fmt: skip
    exercise("Round a matrix to int8 with a scale per row.", function=quantize_rows,
             test="tests/unit/systems/test_quantization.py")  # fmt: skip


def relative(error, exact):
    return (error.norm() / exact.norm()).item()


def four_bits():
    text("### Four bits, and looking at activations")
    text(r"""
        With 4 bits there are 15 levels per group of weights. AWQ {lin} notes that weights which meet large activations
        matter most, and protects them without mixing formats: multiply those columns of $W$ by $s_j$ before rounding
        and divide $x_j$ by it, $W x = (W \operatorname{diag}(s)) (\operatorname{diag}(s)^{-1} x)$. A larger weight
        has the same absolute error, so a smaller relative one. The scale is $s_j = \text{mean}|x_j|^\alpha$, the
        $\alpha$ found by trying:
    """, lin=WORKS["lin"])  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(256, 256, generator=generator) / 16
    x = torch.randn(512, 256, generator=generator) * torch.exp(torch.randn(256, generator=generator))
    exact, size = x @ weight.T, x.abs().mean(dim=0)
    errors = {}
    for alpha in (0.0, 0.25, 0.5, 0.75, 1.0):  # @inspect alpha
        s = size**alpha
        rounded = round_groups(weight * s, levels=7)  # @stepover
        errors[alpha] = relative((x / s) @ rounded.T - exact, exact)  # @inspect errors @stepover
    best = min(errors, key=errors.get)  # @inspect best
    assert 0 < best < 1 and errors[best] < 0.8 * errors[0.0]
    text("""
        From {before:.1%} without scaling to {after:.1%}, for nothing at run time: $s$ is folded into the layer before.
        It is *weight-only*: the product itself is in 16 bits, and what is saved is bytes, which is what decoding needs.
    """, before=errors[0.0], after=errors[best])  # fmt: skip


def round_groups(weight, *, levels, group=64):
    groups = weight.unflatten(1, (-1, group))
    scale = groups.abs().amax(dim=-1, keepdim=True) / levels
    return ((groups / scale).round() * scale).flatten(1)


def smaller_models():
    text("## Remedy 3: a smaller model from a large one")
    text("""
        Cut away what matters least (layers, heads, width; judged on a small set of texts), then heal by
        **distillation**: train on the large model's whole distribution $p$ instead of on the one right token.
        {muralidharan} made models of 8 and 4 billion parameters from one of 15 in this way, with up to 40 times fewer
        tokens than training them from scratch. Why so few? A target distribution says more than a token:
    """, muralidharan=WORKS["muralidharan"])  # fmt: skip
    teacher = torch.tensor([0.6, 0.3, 0.05, 0.05])  # @inspect teacher
    logits = torch.zeros(4, requires_grad=True)
    loss = -(teacher * torch.log(softmax(logits, dim=-1))).sum()  # @inspect loss @stepover
    loss.backward()  # @stepover
    gradient = logits.grad  # @inspect gradient
    assert torch.allclose(gradient, torch.full((4,), 0.25) - teacher, atol=1e-6)
    text("""
        The gradient is $q - p$ for all tokens at once. With the right token alone it would be $q$ minus a one-hot
        vector: the same in the mean over many samples, but with the noise of drawing them.
    """)


def speculation():
    text("## Remedy 4: guess, then check")
    text("""
        The first three remedies change the model. This one does not change a single probability. *Checking* tokens is
        prefill, many at once, and cheap; *making* them is decoding. So a small model drafts $k$ tokens and the large
        one computes all $k + 1$ distributions in one pass {leviathan}, {chen}:

        - accept a draft $x \\sim q$ with probability $\\min(1, p(x)/q(x))$;
        - at the first refusal draw instead from $\\max(p - q, 0)$, normalised, and stop;
        - if all are accepted, draw one more from the large model's last distribution.
    """, leviathan=WORKS["leviathan"], chen=WORKS["chen"])  # fmt: skip
    p, q = torch.tensor([[0.5, 0.3, 0.15, 0.05]] * 2), torch.tensor([[0.1, 0.2, 0.3, 0.4]])  # @inspect p q
    generator = np.random.default_rng(0)
    text("The drafter is bad: it likes best what the model likes least. Still, over 4000 draws:")
    drafts = generator.choice(4, 4000, p=[0.1, 0.2, 0.3, 0.4])  # @inspect drafts
    first = [accept_drafts([int(draft)], q, p, generator)[0] for draft in drafts]  # @stepover
    counts = np.bincount(first, minlength=4)  # @inspect counts
    expected = 4000 * p[0].numpy()  # @inspect expected
    chi_square = ((counts - expected) ** 2 / expected).sum()  # @inspect chi_square
    wrong = ((4000 * q[0].numpy() - expected) ** 2 / expected).sum()  # @inspect wrong
    assert chi_square < 16.27 < 1000 < wrong
    text("""
        Chi-square is {chi:.1f}; with three degrees of freedom, a true sampler exceeds 16.27 once in a thousand times.
        (Had we kept all drafts it would be {wrong:,.0f}.)
    """, chi=chi_square, wrong=wrong)  # fmt: skip
    exercise("Write the step that accepts or refuses; a chi-square test checks it.", function=accept_drafts,
             test="tests/unit/systems/test_speculative.py")  # fmt: skip


def the_proof():
    text("### Proof, first with two tokens")
    text("The drafter gives A the probability $a$, the model $b < a$. What comes out?")
    a, b = sympy.symbols("a b", positive=True)  # @stepover
    out_a = a * (b / a)  # @inspect out_a @stepover
    out_b = sympy.simplify((1 - a) * 1 + a * (1 - b / a) * 1)  # @inspect out_b @stepover
    assert out_a == b and sympy.simplify(out_b - (1 - b)) == 0
    text(r"""
        A is drafted with $a$ and accepted with $b/a$: in all $b$. B comes when it is drafted, always accepted, or
        when A is refused, because then $\max(p - q, 0)$ lies on B alone: $1 - b$. In general a token $x$ comes out with

        $$\min\big(p(x), q(x)\big) + \Big(1 - \sum_y \min\big(p(y), q(y)\big)\Big)
        \frac{\max(p(x) - q(x), 0)}{\sum_y \max(p(y) - q(y), 0)} = p(x).$$

        The first term is $q(x) \min(1, p(x)/q(x))$, the bracket is the chance of a refusal. The sum is $p(x)$,
        since both sums in the second term are equal, and $\min(p, q) + \max(p - q, 0) = p$. The chance of acceptance is
        $\sum_y \min(p, q)$, one minus the total variation distance.
    """)
    p, q = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.1, 0.2, 0.3, 0.4])
    accepted = np.minimum(p, q).sum()  # @inspect accepted
    result = np.minimum(p, q) + (1 - accepted) * np.maximum(p - q, 0) / np.maximum(p - q, 0).sum()  # @inspect result
    assert np.allclose(result, p) and math.isclose(accepted, 0.5)


def speculation_for_real():
    text("### With two models")
    text("The large model here is a tiny one, and its drafter the same model with weights rounded to int8:")
    torch.manual_seed(0)
    model = TransformerLM(TINY)  # @stepover
    drafter = ModelDrafter(ModuleRunner(quantize_linears(model), 64))  # @stepover
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=0)
    result = speculative_generate(ModuleRunner(model, 64), drafter, [1, 2, 3], params, num_drafts=4)  # @stepover
    passes, drafted, accepted = result.passes, result.drafted, result.accepted  # @inspect passes drafted accepted
    assert len(result.completion.ids) == 60 and passes < 20 and accepted / drafted > 0.8
    text("""
        {passes} passes of the large model for 60 tokens: {accepted} of {drafted} drafts were accepted. Drafts may also
        come from extra heads of the model itself (Medusa {cai}), from a small network on its hidden states (EAGLE
        {li}), or from the prompt, where the same words stood before.
    """, passes=passes, accepted=accepted, drafted=drafted, cai=WORKS["cai"], li=WORKS["li"])  # fmt: skip
    exercise("Decode with drafts.", function=speculative_generate,
             test="tests/unit/systems/test_speculative.py")  # fmt: skip


def how_many_drafts():
    text("### How many drafts?")
    text(r"""
        If each draft is accepted with probability $\alpha$ independently, a pass yields
        $1 + \alpha + \dots + \alpha^k = \frac{1 - \alpha^{k+1}}{1 - \alpha}$ tokens and costs $1 + ck$, with $c$ the
        drafter's time over the model's. With $c = 0.05$:
    """)
    curves = {
        f"acceptance {rate}": [(k, speedup(rate, k, 0.05)) for k in range(13)] for rate in (0.6, 0.8, 0.9)
    }  # @stepover
    best = {name: max(points, key=lambda point: point[1]) for name, points in curves.items()}  # @inspect best
    assert best["acceptance 0.6"][0] < best["acceptance 0.8"][0] < best["acceptance 0.9"][0]
    plot(plot_overlaid_curves(curves, xlabel="drafts per pass", ylabel="times as fast"),
         alt="Speed-up over the number of drafts: each curve rises to a maximum and falls; higher acceptance, later.")  # fmt: skip
    generator = np.random.default_rng(0)
    accepted = (generator.random((20_000, 4)) < 0.8).cumprod(axis=1).sum(axis=1) + 1
    simulated, formula = accepted.mean(), (1 - 0.8**5) / (1 - 0.8)  # @inspect simulated formula
    assert abs(simulated - formula) < 0.03
    text("""
        A simulation of four drafts agrees with the formula ({formula:.2f} tokens). **Trap:** this holds for small
        batches. When many sequences fill the arithmetic already, checking drafts is no longer free.
    """, formula=formula)  # fmt: skip


def speedup(rate, k, cost):
    return (1 - rate ** (k + 1)) / (1 - rate) / (1 + cost * k)


def continuous_batching():
    text("## Serving: requests come and go")
    text("""
        In training all rows of a batch have one length. Requests arrive when they like and end when they like. If a
        batch runs until its longest answer is done, most rows idle. Orca {yu} schedules by *iteration*: after every
        token, finished rows leave and waiting ones join. 64 requests, 8 rows:
    """, yu=WORKS["yu"])  # fmt: skip
    lengths = np.random.default_rng(0).geometric(1 / 60, 64)  # @inspect lengths
    waiting_for_longest = sum(lengths[i : i + 8].max() for i in range(0, 64, 8))  # @inspect waiting_for_longest
    steps = steps_of_continuous_batching(list(lengths), rows=8)  # @inspect steps
    least = math.ceil(lengths.sum() / 8)  # @inspect least
    assert least <= steps < 0.75 * waiting_for_longest
    text("""
        {waiting:,} steps become {steps:,}, where {least:,} would be perfect. Rows of different lengths share the
        matrix products of their tokens; only attention is done row by row (*selective batching*).
    """, waiting=int(waiting_for_longest), steps=steps, least=least)  # fmt: skip
    text("Our engine does it with a real model. A sample must not depend on its company:")
    torch.manual_seed(0)
    engine = Engine(TransformerLM(TINY), max_batch=3, path="modules")  # @stepover
    params = [SamplingParams(max_tokens=size, seed=1) for size in (5, 12, 3, 9)]  # @stepover
    prompts = [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
    together = [c.ids for c in engine.generate(prompts, params)]  # @inspect together @stepover
    number = engine.submit(prompts[3], params[3], stream=3)  # @stepover
    while engine.has_work:  # @every 3
        engine.step()  # @stepover
    alone = engine.take_results(number)[0].ids  # @inspect alone @stepover
    assert alone == together[3] and [len(ids) for ids in together] == [5, 12, 3, 9]
    exercise("Read the engine's `step` and `_admit`.", function=Engine, test="tests/unit/systems/test_engine.py")


def steps_of_continuous_batching(waiting, *, rows):
    running, steps = [], 0
    while waiting or running:  # @every 200
        while waiting and len(running) < rows:
            running.append(waiting.pop(0))  # @inspect running
        running = [left - 1 for left in running if left > 1]
        steps += 1  # @inspect steps
    return steps


def pages():
    text("## Serving: memory in pages")
    text("""
        How long will an answer be? Nobody knows, so early servers reserved the longest possible stretch for each row.
        {kwon} found that only 20 to 38 % of the cache held anything, and took over an old idea of operating systems:
        **pages** of, say, 16 tokens, and a table per row. Room for 65,536 tokens, answers of a few hundred, at most
        2048:
    """, kwon=WORKS["kwon"])  # fmt: skip
    generator = np.random.default_rng(0)
    lengths = np.minimum(generator.lognormal(5.8, 0.8, 1000).astype(int) + 1, 2048)  # @inspect lengths
    reserved = 65_536 // 2048  # @inspect reserved
    share = lengths[:reserved].mean() / 2048  # @inspect share
    cache = PagedKVCache(1, 65_536 // 16, page_size=16)  # @stepover
    used, rows = fill_pages(cache, lengths)  # @inspect used rows @stepover
    assert rows > 3 * reserved and used > 0.95 and share < 0.35
    text("""
        Reserving: {reserved} rows, {share:.0%} of the memory in use. Pages: {rows} rows, {used:.1%}; only the last page
        of each row is partly empty. {more:.1f} times as many rows in the batch.
    """, reserved=reserved, share=share, rows=rows, used=used, more=rows / reserved)  # fmt: skip


def fill_pages(cache, lengths):
    tokens = 0
    for rows, length in enumerate(lengths):
        try:
            cache.reserve(PagedSequence(), int(length))
        except OutOfPages:
            return tokens / (cache.num_pages * cache.page_size), rows
        tokens += int(length)
    raise AssertionError("more requests are needed to fill the cache")


def copy_on_write():
    text("### Samples share their prompt")
    text("Four answers to one prompt of 40 tokens, as in reinforcement learning. Pages know how many rows own them:")
    cache = PagedKVCache(1, 32, page_size=16)  # @stepover
    prompt = PagedSequence()  # @stepover
    cache.reserve(prompt, 40)  # @stepover
    prompt.length = 40
    samples = [cache.fork(prompt) for _ in range(4)]  # @stepover
    owners = cache.owners[:8]  # @inspect owners
    assert owners == [5, 5, 5, 0, 0, 0, 0, 0]
    text(
        "Nothing was copied. When a sample writes its first token into the third page, it gets its own copy of that one:"
    )
    for sample in samples:
        cache.reserve(sample, 1)  # @stepover
        owners = cache.owners[:8]  # @inspect owners
        pages_of_sample = sample.pages  # @inspect pages_of_sample
    assert owners == [5, 5, 1, 1, 1, 1, 1, 0]
    text("""
        7 pages instead of 15 for the prompt and four samples. The same table lets a system prompt be kept once for all
        users.
    """)
    exercise("Write fork, reserve and truncate with counted owners.", function=PagedKVCache,
             test="tests/unit/systems/test_paged_cache.py")  # fmt: skip
    text("""
        All of this is in the servers that people use: vLLM (pages, continuous batching), SGLang (prompts shared in a
        tree), TensorRT-LLM (NVIDIA's compiled engine), llama.cpp (small machines, many kinds of quantization).
    """)


def summary():
    text("## What to take home")
    text(r"""
        - Prefill is limited by arithmetic, decoding by memory: intensity $BT$ for weights, below 1 for attention.
        - A step takes as long as its bytes. Batches share the weights, nothing shares the caches.
        - So: fewer key heads, latents, windows; fewer bits, with an eye on outliers; smaller models.
        - Speculative sampling is exact, whatever the drafter.
        - A server keeps its batch full: by iteration, in pages.
    """)
    text("*Next: choosing hyperparameters at scale.*")


if __name__ == "__main__":
    main()

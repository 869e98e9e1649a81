"""Scaling laws II: what must be right at every size.

Lecture 11 of the course: learning rates over width and muP, schedules that can be ended anywhere (WSD), the critical
batch size, what published recipes did, and laws for text that is read more than once. It prepares assignment 3, problem
`scaling_laws` (hyperparameters and why). Left out: fitting of the loss itself (lecture 9). Read next: `lecture_12.py`.
"""

import json
import math
import random
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import cs336_scaling
from cs336_basics.corpora.stories import generate_story
from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.optimizer import AdamW, get_lr_wsd_schedule
from cs336_basics.runs.plots import COLOURS, plot_overlaid_curves
from cs336_scaling.bank import load_bank
from cs336_scaling.batch_size import (
    deepseek_batch,
    fit_critical_batch,
    gradient_noise_scale,
    kaplan_critical_batch,
)
from cs336_scaling.learning_rate import best_learning_rate, deepseek_rate, fit_rate_law
from cs336_scaling.mup import apply_mup, coordinate_check, mup_config, mup_groups, width_exponents
from cs336_scaling.repetition import effective, fit_repetitions
from lectures.content import Reference, exercise, plot, quiz, text


def paper(title, authors, date, number):
    return Reference(title=title, authors=authors.split(", "), date=date, url=f"https://arxiv.org/abs/{number}")


YANG = paper("Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
             "Greg Yang, Edward J. Hu", "2022", "2203.03466")  # fmt: skip
MCCANDLISH = paper("An Empirical Model of Large-Batch Training", "Sam McCandlish, Jared Kaplan", "2018", "1812.06162")
HAGELE = paper("Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations",
               "Alexander H\u00e4gele, Elie Bakouch", "2024", "2405.18392")  # fmt: skip
CEREBRAS = paper("Cerebras-GPT: Open Compute-Optimal Language Models Trained on the Cerebras Wafer-Scale Cluster",
                 "Nolan Dey, Gurpreet Gosal", "2023", "2304.03208")  # fmt: skip
MINICPM = paper("MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
                "Shengding Hu, Yuge Tu", "2024", "2404.06395")  # fmt: skip
DEEPSEEK = paper("DeepSeek LLM: Scaling Open-Source Language Models with Longtermism", "Xiao Bi, Deli Chen", "2024",
                 "2401.02954")  # fmt: skip
LLAMA3 = paper("The Llama 3 Herd of Models", "Aaron Grattafiori, Abhimanyu Dubey", "2024", "2407.21783")
HUNYUAN = paper("Hunyuan-Large: An Open-Source MoE Model with 52 Billion Activated Parameters by Tencent",
                "Xingwu Sun, Yanfeng Chen", "2024", "2411.02265")  # fmt: skip
MINIMAX = paper("MiniMax-01: Scaling Foundation Models with Lightning Attention", "Aonian Li, Bangwei Gong", "2025",
                "2501.08313")  # fmt: skip
MUENNIGHOFF = paper("Scaling Data-Constrained Language Models", "Niklas Muennighoff, Alexander Rush", "2023",
                    "2305.16264")  # fmt: skip

BANK = Path(cs336_scaling.__file__).parent / "bank.jsonl"
SWEEP = Path(__file__).parent / "data" / "lecture_11_sweep.json"
WIDTHS, RATES = (16, 32, 64, 128), tuple(2.0**-k for k in range(9, 2, -1))
LAW_TEST = "tests/unit/scaling/test_hyperparameter_laws.py"


def main():
    text("# Scaling laws II")
    text("*Lecture 11: what must be right at every size*")
    what_moves()
    why_rates_fall()
    mup()
    does_it_hold()
    transfer()
    ending_anywhere()
    what_a_batch_buys()
    measuring_noise()
    recipes()
    published_laws()
    reading_twice()
    summary()


def what_moves():
    text("## A law is only as good as its runs")
    text("""
        Lecture 9 fitted the loss over size and data, as if each run were the best possible one. It is not, unless its
        learning rate, batch size and schedule are right **for its size**. If small runs are tuned and large ones get
        the same numbers, the law measures the mistuning. So: which settings move with size, and by what law?

        The bank of the course has sweeps of the rate at four widths, each at a budget of its own. Real runs again:
    """)
    sweeps = rate_sweeps()  # @stepover
    best = {width: best_learning_rate(*sweep).rate for width, sweep in sweeps.items()}  # @inspect best @stepover
    law = fit_rate_law(sweeps)  # @stepover
    gamma = law.gamma  # @inspect gamma
    assert 0.3 < gamma < 1.5 and best[16] > 2 * best[96]
    text("""
        A parabola in the logarithm of the rate gives each minimum. From width 16 to 96 the best rate falls from
        {wide:.3f} to {narrow:.3f}, about as width to the power of {gamma:.2f} (budget and batch differ too: a hint, not
        a measurement). One could fit this law and follow it. Or one could ask why it falls, and make it stop.
    """, wide=best[16], narrow=best[96], gamma=-gamma)  # fmt: skip
    exercise("Fit the law of the best rate over width.", function=fit_rate_law, test=LAW_TEST)


def rate_sweeps():
    found = {}
    for run in load_bank(BANK):
        if run["corpus"] == "stories" and run["role"] == "rate" and run["loss"] is not None:
            rates, losses = found.setdefault(run["model"]["d_model"], ([], []))
            rates.append(run["training"]["learning_rate"])
            losses.append(run["loss"])
    return dict(sorted(found.items()))


def why_rates_fall():
    text("## Why wide models want small rates")
    text(r"""
        Take one matrix, $y = Wx$, of width $n$. At the start the entries of $W$ are random with variance $1/n$, so $y$
        is a sum of $n$ terms with random signs: of order $\sqrt{n} \cdot 1/\sqrt{n} = 1$. Good at every width.

        Now one step of Adam. It moves each entry by about the rate $\eta$, in the direction of the gradient, and the
        gradient of $W$ is $\delta\, x^\top$: its signs are those of $x$. So the change of the output,

        $$\Delta y_j = -\eta \sum_{i=1}^{n} \text{sign}(\delta_j x_i)\, x_i
        = -\eta\, \text{sign}(\delta_j) \sum_{i=1}^{n} |x_i| \;\sim\; \eta\, n,$$

        is a sum of $n$ terms of **equal** sign. It grows like $n$, not like $\sqrt{n}$:
    """)
    moved, start = {}, {}
    for width in (64, 256, 1024):  # @inspect width
        x = np.random.default_rng(0).normal(size=width)
        weights = np.random.default_rng(1).normal(size=(8, width)) / math.sqrt(width)
        start[width] = (weights @ x).std()  # @inspect start
        update = -0.01 * np.sign(np.outer(np.ones(8), x))
        moved[width] = abs(update @ x).mean()  # @inspect moved
    assert 12 < moved[1024] / moved[64] < 20 and start[1024] / start[64] < 2.5
    text("""
        The outputs at the start are of the same size at all widths. What a step changes grows {times:.0f}-fold when the
        width grows 16-fold. So the rate of a hidden matrix must fall like $1/n$, if every width is to learn at the same
        pace. Embeddings are different: a token *selects* a row, there is no sum, and the rate stays.
    """, times=moved[1024] / moved[64])  # fmt: skip
    quiz(
        "With plain SGD the entries move by $\\eta$ times the gradient. Does the same argument give the same rule?",
        "No. The size of the gradient itself depends on width and on the layer; Adam has divided it away. The rules of"
        " muP depend on the optimizer.",
    )


def mup():
    text("## muP: one rate for all widths")
    text(r"""
        Do this for each kind of weight, and ask that activations *and their changes* stay of order one at every width:
        that is the **maximal update parametrization** {yang}. With $m$ the width over that of a small base model, and
        AdamW:

        | weights | standard deviation | rate | decay |
        |---|---|---|---|
        | hidden matrices | $\sim 1/\sqrt{n}$, as always | $\eta / m$ | $\lambda m$ |
        | output head | that of the base $/\, m$ | $\eta / m$ | $\lambda m$ |
        | embeddings, gains, biases | as in the base | $\eta$ | $\lambda$ |
        | scores of attention | divided by $d_{\text{head}}$, not by its root | | |

        The last row is the same argument once more: after training, queries and keys are *aligned*, and their product
        is a sum of terms with equal sign.
    """, yang=YANG)  # fmt: skip
    base, wide = small_config(16), small_config(128)
    groups = mup_groups(
        TransformerLM(wide).named_parameters(), width_ratio=8, learning_rate=0.02, weight_decay=0.1
    )  # @stepover
    shown = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]  # @inspect shown
    scale = mup_config(wide, base).attention_scale  # @inspect scale @stepover
    assert shown[0][1:] == (0.02 / 8, 0.8) and shown[1][1:] == (0.02, 0.1)
    exercise("Write muP's parameter groups and initialization.", function=mup_groups,
             test="tests/unit/scaling/test_mup.py")  # fmt: skip


def small_config(width):
    return ModelConfig(
        vocab_size=128, context_length=32, d_model=width, num_layers=2, num_heads=width // 8, d_ff=3 * width
    )


def does_it_hold():
    text("### Check the coordinates")
    text("""
        muP is easy to get almost right. The test: train a few steps at several widths and look how far the activations
        have moved. If everything is right, by the same amount at every width, in every layer:
    """)
    widths = (16, 32, 64, 128)
    configs = [small_config(width) for width in widths]
    tokens = torch.randint(128, (4, 33), generator=torch.Generator().manual_seed(0))
    plain = coordinate_check(configs, tokens, learning_rate=0.03)  # @stepover
    scaled = coordinate_check(configs, tokens, learning_rate=0.03, base=configs[0])  # @stepover
    plain_slopes, mup_slopes = width_exponents(plain, widths), width_exponents(scaled, widths)  # @stepover
    plain_slopes = {place: round(slope, 2) for place, slope in plain_slopes.items()}  # @inspect plain_slopes
    mup_slopes = {place: round(slope, 2) for place, slope in mup_slopes.items()}  # @inspect mup_slopes
    assert plain_slopes["logits"] > 0.4 and abs(mup_slopes["logits"]) < 0.35
    curves = {f"{place}, {way}": list(zip(widths, found[place], strict=True))
              for place in ("logits", "block 1") for way, found in (("usual", plain), ("muP", scaled))}  # fmt: skip
    figure = plot_overlaid_curves(curves, xlabel="width", ylabel="change after 3 steps", logarithmic=True)
    figure.axes[0].set_xscale("log", base=2)
    plot(figure, alt="The change of the logits grows with width in the usual parametrization and hardly under muP.")
    text("""
        Exponents of the change over width: for the logits {plain:.2f} as usual and {mup:.2f} under muP, for the last
        block {a:.2f} and {b:.2f}. (What falls is the part of the head's random start, which dies out like
        $1/\\sqrt{n}$.) An exponent that is clearly *positive* points at the layer whose rule is wrong.
    """, plain=plain_slopes["logits"], mup=mup_slopes["logits"], a=plain_slopes["block 1"],
         b=mup_slopes["block 1"])  # fmt: skip
    exercise("Check coordinates of your own model.", function=coordinate_check, test="tests/unit/scaling/test_mup.py")


def transfer():
    text("### Does the best rate stay?")
    text("""
        The claim that pays: tune the rate on a narrow model, use it on a wide one. Here are {n} short runs (four
        widths, seven rates, both ways). They take two minutes, so they were **recorded**; one of them is trained again
        now, and must agree.
    """, n=2 * len(WIDTHS) * len(RATES))  # fmt: skip
    record = json.loads(SWEEP.read_text(encoding="utf-8"))
    machine, date = record["machine"], record["date"]  # @inspect machine date
    again = final_loss(16, RATES[4], use_mup=False)  # @inspect again @stepover
    recorded = record["usual"]["16"][4]  # @inspect recorded
    assert abs(again - recorded) < 0.05
    best = {}
    for way in ("usual", "muP"):  # @inspect way
        best[way] = [best_learning_rate(RATES, record[way][str(width)]).rate for width in WIDTHS]  # @stepover
    moved = {way: rates[0] / rates[-1] for way, rates in best.items()}  # @inspect best moved
    assert moved["usual"] > 1.5 * moved["muP"]
    plot(two_sweeps(record), alt="Loss over rate for four widths. Left, the usual way, the valley moves to smaller rates "
         "with width; right, under muP, it stays.")  # fmt: skip
    tuned = {way: min(record[way]["128"]) for way in best}  # @inspect tuned
    text("""
        *Recorded on {machine}, {date}.* From width 16 to 128 the best rate falls by a factor of {usual:.1f} in the
        usual parametrization and by {mup:.1f} under muP, which is to say that it hardly moves. Look at the curves: in
        the left picture the valley moves left, on the right it stays, and wider models are better at the rate that was
        best for the narrow one. The price: tuned at width 128 itself, the usual one is a little better here ({a:.2f}
        against {b:.2f}). What transfers is the rate over width, not everything: depth, batch, length of training and
        decay need laws, or rules, of their own.
    """, machine=machine, date=date, usual=moved["usual"], mup=moved["muP"], a=tuned["usual"], b=tuned["muP"])  # fmt: skip


def two_sweeps(record):
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    for axes, way in zip(figure.subplots(1, 2, sharey=True), ("usual", "muP"), strict=True):
        for colour, width in zip(COLOURS, WIDTHS, strict=False):
            axes.plot(RATES, record[way][str(width)], "o-", color=colour, markersize=3, label=f"width {width}")
        axes.set_xscale("log", base=2)
        axes.set_title(way, fontsize=9)
        axes.set_xlabel("learning rate")
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("loss after 40 steps")
    return figure


def final_loss(width, rate, *, use_mup, num_steps=40):
    torch.manual_seed(0)
    base, config = small_config(WIDTHS[0]), small_config(width)
    model = TransformerLM(mup_config(config, base) if use_mup else config)
    if use_mup:
        apply_mup(model, base)
    ratio = width / base.d_model if use_mup else 1.0
    optimizer = AdamW(mup_groups(model.named_parameters(), width_ratio=ratio, learning_rate=rate, weight_decay=0.0))
    tokens, generator, losses = story_bytes(), torch.Generator().manual_seed(1), []
    for _ in range(num_steps):
        starts = torch.randint(len(tokens) - 33, (8,), generator=generator).tolist()
        rows = torch.stack([tokens[i : i + 33] for i in starts])
        loss = cross_entropy(model(rows[:, :-1]), rows[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def story_bytes():
    rng = random.Random(0)
    return torch.tensor(list("".join(generate_story(rng).text for _ in range(60)).encode())).clamp(max=127)


def record_sweep(machine, date):  # python -c "from lectures.lecture_11 import *; record_sweep('...', '...')"
    runs = {
        way: {str(w): [final_loss(w, r, use_mup=way == "muP") for r in RATES] for w in WIDTHS}
        for way in ("usual", "muP")
    }
    SWEEP.write_text(json.dumps({"machine": machine, "date": date, **runs}), encoding="utf-8")


def ending_anywhere():
    text("## A schedule that can be ended anywhere")
    text(r"""
        A cosine schedule must know its end. For a law over lengths $D_1 < \ldots < D_k$ one trains $k$ runs from
        scratch. **Warm-up, stable, decay** (WSD {minicpm}) keeps the rate constant and lets it fall only at the end:
        one long *trunk*, and from it a short decay for each length. Cost, for decays over a tenth:

        $$\text{cosine: } \sum_i D_i, \qquad \text{WSD: } 0.9\,D_k + 0.1 \sum_i D_i$$
    """, minicpm=MINICPM)  # fmt: skip
    for t in range(0, 101, 5):  # @inspect t
        rate = get_lr_wsd_schedule(t, 1.0, 0.0, 10, 20, 100)  # @inspect rate @stepover
    assert rate == 0.0
    lengths = [256, 512, 1024, 2048, 4096]
    costs = {"cosine": sum(lengths), "WSD": 0.9 * lengths[-1] + 0.1 * sum(lengths)}  # @inspect costs
    text("""
        What does it lose? The laboratory of lecture 9 (a linear model with a power-law spectrum, its expected loss
        computed exactly) says:
    """)
    cosine = {
        d: expected_loss(0.35 * (1 + np.cos(np.pi * np.arange(d) / d))) for d in lengths
    }  # @inspect cosine @stepover
    stable = {d: expected_loss(wsd(d, share=0.1)) for d in lengths}  # @inspect stable @stepover
    never = {d: expected_loss(np.full(d, 0.7)) for d in lengths}  # @inspect never @stepover
    gap = [1 - stable[d] / cosine[d] for d in lengths]  # @inspect gap
    cost = min(never[d] / stable[d] - 1 for d in lengths)  # @inspect cost
    assert 0 < min(gap) and max(gap) < 0.1 and cost > 0.05
    text("""
        At the same peak rate WSD ends {gap:.0%} below the cosine or more at each of the five lengths, for {share:.0%}
        of the steps. Without the decay the loss is at least {cost:.0%} higher: the noise that a high rate keeps up. In
        language models the two are level {hagele}. **Trap:** the loss curve of the trunk says little; what counts is
        the loss *after* a decay, so decay before you compare.
    """, gap=min(gap), share=costs["WSD"] / costs["cosine"], cost=cost, hagele=HAGELE)  # fmt: skip
    exercise("Write the schedule. At which step does the decay begin?", function=get_lr_wsd_schedule,
             test="tests/unit/basics/test_optimizer.py")  # fmt: skip


def wsd(num_steps, share):
    decay = round(share * num_steps)
    return np.concatenate([np.full(num_steps - decay, 0.7), 0.7 * np.linspace(1, 0, decay)])


def expected_loss(rates, noise=0.3):  # @stepover
    i = np.arange(1, 301.0)
    variance, error = i**-1.5, i**0.3
    for rate in rates:
        error = (1 - rate * variance) ** 2 * error + rate**2 * noise * variance
    return (error * variance).sum() + 5 * 300.5**-0.2


def what_a_batch_buys():
    text("## The critical batch size")
    text(r"""
        A gradient of $B$ examples is the true gradient $G$ plus noise with covariance $\Sigma / B$. Take the step that
        is best for the expected loss (to second order, Hessian $H$); the loss falls by {mccandlish}

        $$\Delta L(B) = \frac{\Delta L_{\max}}{1 + B_{\text{noise}}/B},
        \qquad B_{\text{noise}} = \frac{\text{tr}(H\Sigma)}{G^\top H G} \approx \frac{\text{tr}\,\Sigma}{|G|^2}$$

        Far below $B_{\text{noise}}$, twice the batch is worth two steps; far above it is worth one. To reach a given
        loss one needs $S$ steps and $E = BS$ examples with

        $$\left(\frac{S}{S_{\min}} - 1\right)\left(\frac{E}{E_{\min}} - 1\right) = 1
        \quad\Longrightarrow\quad S = S_{\min} + \frac{E_{\min}}{B}, \qquad B_{\text{crit}} = \frac{E_{\min}}{S_{\min}}$$
    """, mccandlish=MCCANDLISH)  # fmt: skip
    batches = 2.0 ** np.arange(5, 14)
    steps = (500 + 200_000 / batches) * np.exp(0.03 * np.random.default_rng(0).normal(size=len(batches)))
    fit = fit_critical_batch(batches, steps)  # @stepover
    found = (fit.least_steps, fit.least_tokens, fit.critical)  # @inspect found
    assert abs(fit.critical / 400 - 1) < 0.1
    for batch in (50, 100, 200, 400, 800, 1600):  # @inspect batch
        times_steps = (500 + 200_000 / batch) / 500  # @inspect times_steps
        times_examples = batch * (500 + 200_000 / batch) / 200_000  # @inspect times_examples
        assert math.isclose((times_steps - 1) * (times_examples - 1), 1.0)
    text("""
        Fitted to runs with a true $B_{\\text{crit}}$ of 400: {critical:.0f}. At the critical batch both costs are twice
        their least: twice the steps of the fastest run, twice the examples of the thriftiest. It is the exchange rate
        of time and compute. In the bank, the same number of tokens with larger and larger batches (and so fewer steps):
    """, critical=fit.critical)  # fmt: skip
    runs = [
        r for r in load_bank(BANK) if r["role"] == "batch" and r["corpus"] == "stories" and r["budget"] == 3e10
    ]  # @stepover
    losses = {r["training"]["batch_size"]: round(r["loss"], 2) for r in runs}  # @inspect losses
    assert losses[32] > losses[16] > losses[4] > losses[2]
    text("""
        At this tiny scale the critical batch is tiny too: from 2 to 32 sequences the loss rises from {low} to {high}
        (the rate grew with the root of the batch and was not tuned again). It grows as the loss falls, for then the
        signal $|G|^2$ gets small beside the noise. Kaplan's law says so in numbers:
    """, low=losses[2], high=losses[32])  # fmt: skip
    by_loss = {loss: kaplan_critical_batch(loss) for loss in (4.0, 3.0, 2.0)}  # @inspect by_loss @stepover
    assert by_loss[2.0] > 20 * by_loss[4.0]
    text("From a loss of 4 to one of 2, {times:.0f} times as large: many recipes raise the batch during training.",
         times=by_loss[2.0] / by_loss[4.0])  # fmt: skip
    exercise("Fit the critical batch size.", function=fit_critical_batch, test=LAW_TEST)


def measuring_noise():
    text("### Without any sweep")
    text(r"""
        The scale can be read off gradients. Since $E|g_B|^2 = |G|^2 + \text{tr}\,\Sigma / B$, two batch sizes give two
        equations for two unknowns. Data parallel training has both for free: the norm on one rank and the norm of the
        mean. Simulated gradients of 50 weights, whose truth is known:
    """)
    rng = np.random.default_rng(0)
    true_gradient = rng.normal(size=50) * 0.3
    per_example = true_gradient + rng.normal(size=(100_000, 50))
    truth = 50 / (true_gradient @ true_gradient)  # @inspect truth
    small = (per_example.reshape(-1, 4, 50).mean(axis=1) ** 2).sum(axis=1).mean()  # @inspect small
    large = (per_example.reshape(-1, 100, 50).mean(axis=1) ** 2).sum(axis=1).mean()  # @inspect large
    estimate = gradient_noise_scale(small, large, small_batch=4, large_batch=100)  # @inspect estimate @stepover
    assert abs(estimate / truth - 1) < 0.05
    text("""
        Estimated {a:.1f}, true {b:.1f}. **Trap:** average the *squared norms* over many steps first, then divide; the
        mean of the ratios is biased, and may be negative.
    """, a=estimate, b=truth)  # fmt: skip
    exercise("Estimate the noise scale from gradients.", function=gradient_noise_scale, test=LAW_TEST)


RECIPES = [  # model, parameters active, tokens, how hyperparameters were carried to size
    ("Cerebras-GPT 13B", 13e9, 260e9, "muP, Chinchilla's 20 tokens"),
    ("DeepSeek LLM 67B", 67e9, 2e12, "laws of rate and batch over compute"),
    ("Llama 3 405B", 405e9, 15.6e12, "IsoFLOP law of tokens"),
    ("Hunyuan-Large", 52e9, 7e12, "laws for mixtures of experts"),
]
"""parameters and tokens as the papers' abstracts and tables give them"""


def recipes():
    text("## What published recipes did")
    text("""
        | recipe | carried to size by |
        |---|---|
        | Cerebras-GPT {cerebras} | muP, tuned at 40 million parameters; a law over 111 million to 13 billion |
        | MiniCPM {minicpm} | muP and WSD; from many decays of few trunks, far more tokens than Chinchilla |
        | DeepSeek LLM {deepseek} | laws of rate and batch over compute; IsoFLOP with FLOPs per token in place of $6N$ |
        | Llama 3 {llama} | IsoFLOP up to $10^{22}$ FLOPs, then from loss to benchmark accuracy by a sigmoid |
        | Hunyuan-Large {hunyuan}, MiniMax-01 {minimax} | the same for experts; active parameters count, attention differs |
    """, cerebras=CEREBRAS, minicpm=MINICPM, deepseek=DEEPSEEK, llama=LLAMA3, hunyuan=HUNYUAN,
         minimax=MINIMAX)  # fmt: skip
    ratios = {name: tokens / size for name, size, tokens, _ in RECIPES}  # @inspect ratios
    flops = {name: f"{6 * size * tokens:.1e}" for name, size, tokens, _ in RECIPES}  # @inspect flops
    assert ratios["Cerebras-GPT 13B"] == 20 and 38 < ratios["Llama 3 405B"] < 39
    text("""
        Tokens per (active) parameter: {a:.0f}, {b:.0f}, {c:.0f} and {d:.0f}. Nobody repeats Chinchilla's constants:
        each lab fits its own data, tokenizer and architecture, at a small share of the final cost. **The method
        travels, the numbers do not.**
    """, **dict(zip("abcd", ratios.values(), strict=True)))  # fmt: skip


def published_laws():
    text("### Trap: using a law of another lab")
    text(r"""
        {llama} print their law of the best number of tokens with two digits, $D^* = 0.29\, C^{0.53}$, and what it gives
        at $3.8 \cdot 10^{25}$ FLOPs: 16.55 trillion tokens, for 402 billion parameters. Put it in:
    """, llama=LLAMA3)  # fmt: skip
    tokens = 0.29 * 3.8e25**0.53 / 1e12  # @inspect tokens
    most = 0.295 * 3.8e25**0.535 / 1e12  # @inspect most
    assert tokens < 11 and most < 15
    text("""
        {tokens:.1f} trillion, not 16.55. Rounding explains a part: with the largest numbers that round to these digits
        it would be {most:.1f}. So much hangs on a third digit at this size. DeepSeek's laws of rate and batch, at three
        budgets:
    """, tokens=tokens, most=most)  # fmt: skip
    settings = {
        c: (deepseek_rate(c), deepseek_batch(c) / 1e6) for c in (1e18, 1e21, 1e24)
    }  # @inspect settings @stepover
    assert settings[1e24][0] < settings[1e18][0] and settings[1e24][1] > settings[1e18][1]
    text("""
        The rate falls slowly and the batch (in millions of tokens) rises. Fitted on their data, optimizer and schedule:
        good for a first guess, and no substitute for a sweep at your smallest sizes.
    """)


def reading_twice():
    text("## When the text runs out")
    text(r"""
        Laws so far count *fresh* tokens. With $U$ unique tokens read $R + 1$ times, {muennighoff} find that each
        further epoch is worth less, by a constant factor:

        $$D' = U + U R^* \left(1 - e^{-R/R^*}\right), \qquad R^* \approx 15.4$$
    """, muennighoff=MUENNIGHOFF)  # fmt: skip
    epochs = np.array([1, 2, 4, 8, 16, 40, 100])
    worth = effective(epochs, 1.0)  # @stepover
    for number, value in zip(epochs, worth, strict=True):  # @inspect number value
        assert math.isclose(value, 1 + 15.4 * (1 - math.exp(-(number - 1) / 15.4)))
    figure = plot_overlaid_curves(
        {"worth": list(zip(epochs, worth, strict=True)), "if all were fresh": [(1, 1), (40, 40)]},
        xlabel="epochs", ylabel="worth, in epochs of fresh text")  # fmt: skip
    plot(figure, alt="The worth of epochs follows the diagonal up to about four and then bends to a ceiling near 16.")
    assert worth[2] / 4 > 0.9 and worth[-1] < 16.4
    text("""
        Four epochs are worth {four:.1f}: nearly fresh. Forty are worth {forty:.1f}, and more than {most:.1f} cannot be
        had. So when text is scarce: repeat up to about four times, then rather filter less, translate, generate, or
        take a smaller model and more regularisation.
    """, four=worth[2], forty=worth[5], most=16.4)  # fmt: skip
    quiz(
        "A tenth of your data is excellent. Is it better to read it ten times than to read the whole once?",
        "Ten readings of it are worth {value:.1f} readings, so you get fewer effective tokens than from the whole, but"
        " better ones. That is a question of data (lecture 14), and depends on the budget: the larger it is, the worse"
        " repetition gets.",
        value=float(effective(10.0, 1.0)),
    )
    exercise("Fit $R^*$ to runs that repeat.", function=fit_repetitions, test=LAW_TEST)


def summary():
    text("## What to take home")
    text(r"""
        - A scaling law measures mistuning too: rate, batch and schedule must be right at every size.
        - Adam's updates add up coherently, like $n$; muP divides the rate of hidden matrices by width. Check coordinates.
        - WSD: one trunk, many ends, and laws at a fraction of the cost. Compare after the decay.
        - $B_{\text{crit}}$ is the exchange rate of steps and examples, and it grows as the loss falls.
        - Published constants are for a first guess only; two digits of an exponent are not enough.
        - Up to four epochs are nearly as good as fresh text.

        *Next: how do we know that the result is any good?*
    """)


if __name__ == "__main__":
    main()

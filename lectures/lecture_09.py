"""Scaling laws I: predict the large run from small ones.

Lecture 9 of the course: where power laws come from, how to fit them, Kaplan's and Chinchilla's laws, three ways to find
the best size of a model for a budget, and the traps in each, on real small runs that ship with the course. It prepares
assignment 3, problems `chinchilla_isoflops` and `scaling_laws`. Left out: hyperparameters, muP and schedules (lecture
11). Read next: `lecture_10.py`.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import cs336_scaling
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_scaling.bank import bank_table, load_bank
from cs336_scaling.envelope import fit_envelope
from cs336_scaling.flops import COUNTING_RULES, count_parameters
from cs336_scaling.isoflops import fit_isoflops, isoflops_optima
from cs336_scaling.isoflops_data import LAW
from cs336_scaling.parametric import fit_parametric, fit_parametric_robust
from cs336_scaling.parametric_intervals import bootstrap_parametric
from cs336_scaling.parametric_law import PUBLISHED, ParametricLaw
from cs336_scaling.plots import plot_predicted_against_real, plot_profiles
from cs336_scaling.power_law import fit_floored_power_law, fit_power_law, fit_power_law_linear
from cs336_scaling.prediction import held_out_error
from cs336_scaling.runs_table import RunTable, load_isoflops
from lectures.content import Reference, exercise, plot, quiz, text


def paper(title, authors, date, number):
    return Reference(title=title, authors=authors.split(", "), date=date, url=f"https://arxiv.org/abs/{number}")


HESTNESS = paper("Deep Learning Scaling is Predictable, Empirically", "Joel Hestness, Sharan Narang", "2017",
                 "1712.00409")  # fmt: skip
KAPLAN = paper("Scaling Laws for Neural Language Models", "Jared Kaplan, Sam McCandlish", "2020", "2001.08361")
HOFFMANN = paper("Training Compute-Optimal Large Language Models", "Jordan Hoffmann, Sebastian Borgeaud", "2022",
                 "2203.15556")  # fmt: skip
BESIROGLU = paper("Chinchilla Scaling: A Replication Attempt", "Tamay Besiroglu, Ege Erdil, Matthew Barnett, Josh You",
                  "2024", "2404.10102")  # fmt: skip
PORIAN = paper("Resolving Discrepancies in Compute-Optimal Scaling of Language Models",
               "Tomer Porian, Mitchell Wortsman", "2024", "2406.19146")  # fmt: skip
SCHAEFFER = paper("Are Emergent Abilities of Large Language Models a Mirage?",
                  "Rylan Schaeffer, Brando Miranda, Sanmi Koyejo", "2023", "2304.15004")  # fmt: skip
SARDANA = paper("Beyond Chinchilla-Optimal: Accounting for Inference in Language Model Scaling Laws",
                "Nikhil Sardana, Jonathan Frankle", "2023", "2401.00448")  # fmt: skip

BANK = Path(cs336_scaling.__file__).parent / "bank.jsonl"


def main():
    text("# Scaling laws I")
    text("*Lecture 9: predict the large run from small ones*")
    why_predict()
    the_simplest_law()
    dimension()
    a_spectrum()
    drawing_the_line()
    kaplan()
    two_variables()
    best_split()
    chinchilla()
    isoflops()
    fitting_a_surface()
    many_valleys()
    real_runs()
    counting()
    schedules()
    smooth_and_sudden()
    beyond_training()
    summary()


def why_predict():
    text("## One shot")
    text("""
        You are given a month on a thousand GPUs. How large should the model be, and how many tokens should it see? You
        cannot try: the run *is* the budget. What people did for other models, train some candidates and take the best,
        is not possible for the largest one.

        So one trains **small** models, finds how the loss depends on size, data and compute, and extrapolates. That
        this works at all is an empirical surprise: over many powers of ten the loss follows simple laws {hestness}.
        That it can go wrong by factors is a matter of care. This lecture is about both.
    """, hestness=HESTNESS)  # fmt: skip
    chinchilla, gopher = 6 * 70e9 * 1.4e12, 6 * 280e9 * 0.3e12  # @inspect chinchilla gopher
    law = PUBLISHED["Besiroglu et al. 2024"]
    losses = {"Gopher": law.loss(280e9, 0.3e12), "Chinchilla": law.loss(70e9, 1.4e12)}  # @inspect losses @stepover
    assert 1 < chinchilla / gopher < 1.2 and losses["Chinchilla"] < losses["Gopher"] - 0.02
    text("""
        What is at stake: Gopher had 280 billion parameters and saw 300 billion tokens, Chinchilla {hoffmann} 70 billion
        and 1.4 trillion, for nearly the same FLOPs ($6ND$). A law fitted to small runs says {a:.3f} and {b:.3f} nats
        per token, and Chinchilla indeed won, at a quarter of the cost of every later use.
    """, hoffmann=HOFFMANN, a=losses["Gopher"], b=losses["Chinchilla"])  # fmt: skip


def the_simplest_law():
    text("## The oldest scaling law")
    text(r"""
        Estimate the mean $\mu$ of a distribution with variance $\sigma^2$ from $n$ samples. The expected squared error
        is

        $$E\left[(\hat\mu - \mu)^2\right] = \frac{\sigma^2}{n},
        \qquad \log(\text{error}) = \log \sigma^2 - 1 \cdot \log n$$

        On logarithmic axes, a straight line with slope $-1$: a **power law** with exponent 1.
    """)
    sizes = 4 ** np.arange(1, 7)  # @inspect sizes
    samples = np.random.default_rng(0).normal(size=(1000, sizes[-1]))
    errors = [(samples[:, :n].mean(axis=1) ** 2).mean() for n in sizes]  # @inspect errors
    law = fit_power_law(sizes, errors)  # @inspect law @stepover
    assert abs(law.a + 1) < 0.05 and abs(law.k - 1) < 0.2
    text("""
        Measured: exponent {a:.3f}, and the coefficient {k:.2f} is the variance. Estimates of finitely many parameters
        behave so. Language models do not: their exponents are near 0.1 to 0.3. Why are they so small?
    """, a=law.a, k=law.k)  # fmt: skip
    exercise("Fit a power law, and explain why in logarithms.", function=fit_power_law,
             test="tests/unit/scaling/test_isoflops.py")  # fmt: skip


def dimension():
    text("### One reason: dimension")
    text(r"""
        Suppose we know nothing but that the function is smooth, and answer with the value at the nearest known point.
        In $d$ dimensions $n$ points lie about $n^{-1/d}$ apart, so the squared error goes like $n^{-2/d}$.
    """)
    exponents = {d: nearest_neighbour_exponent(d) for d in (1, 2, 4, 8)}  # @inspect exponents @stepover
    assert all(abs(a + 2 / d) < 0.25 * 2 / d for d, a in exponents.items())
    text("""
        Theory says 2, 1, 0.5 and 0.25. With eight dimensions, ten times the data takes away {gain:.0%} of the error. A
        flexible learner pays for the dimension of its problem with a small exponent.
    """, gain=1 - 10 ** exponents[8])  # fmt: skip


def nearest_neighbour_exponent(d):
    rng = np.random.default_rng(0)
    sizes, errors = 4 ** np.arange(2, 7), []
    test = rng.uniform(0.25, 0.75, size=(300, d))
    for n in sizes:
        known = rng.uniform(size=(n, d))
        squared = (test**2).sum(1)[:, None] + (known**2).sum(1) - 2 * test @ known.T
        guesses = known[squared.argmin(axis=1)]
        errors.append(((test.sum(1) - guesses.sum(1)) ** 2).mean())
    return fit_power_law(sizes, errors).a


def a_spectrum():
    text("### Another reason: many small things to learn")
    text(r"""
        A laboratory that we can compute exactly. A linear model learns directions $i = 1, 2, \ldots$, whose inputs have
        variance $\lambda_i = i^{-1.5}$ and whose share of the loss is $i^{-1.2}$: there are always more, and ever
        rarer, things to learn. A model of *size* $N$ has the first $N$ directions. SGD with rate $\eta$ and noise in
        the targets changes the expected squared error $e_i$ of weight $i$, step by step, as

        $$e_i \leftarrow (1 - \eta\lambda_i)^2\, e_i + \eta^2\sigma^2\lambda_i$$

        What is beyond $N$ costs $\sum_{i>N} i^{-1.2} \approx 5 N^{-0.2}$. After $D$ steps the directions with
        $\lambda_i > 1/D$ are learned, $i < D^{1/1.5}$, and the rest costs $D^{-0.2/1.5}$. So with $N$ and $D$ large the
        loss should be

        $$L(N, D) = A N^{-0.2} + B D^{-0.133}$$
    """)
    losses = train_spectrum(64, cosine(200))  # @inspect losses
    by_size = {n: train_spectrum(n, cosine(4096))[-1] for n in (8, 16, 32, 64)}  # @inspect by_size @stepover
    by_steps = {d: train_spectrum(2000, cosine(d))[-1] for d in (64, 256, 1024, 4096)}  # @inspect by_steps @stepover
    in_size = fit_power_law(list(by_size), list(by_size.values())).a  # @inspect in_size @stepover
    in_steps = fit_power_law(list(by_steps), list(by_steps.values())).a  # @inspect in_steps @stepover
    assert abs(in_size + 0.2) < 0.1 and abs(in_steps + 0.133) < 0.05
    text("""
        Measured {size:.2f} and {steps:.3f}. Nobody put a power law of the *loss* in: it comes from the long tail of
        what there is to learn. Whether language is like that nobody has proved; its word frequencies are.
    """, size=-in_size, steps=-in_steps)  # fmt: skip


def train_spectrum(num_features, rates, noise=0.3):  # @inspect num_features
    i = np.arange(1, num_features + 1.0)
    variance, error = i**-1.5, i**0.3  # their product is the share
    missing = 5 * (num_features + 0.5) ** -0.2  # @inspect missing
    losses = []
    for rate in rates:  # @every 10
        error = (1 - rate * variance) ** 2 * error + rate**2 * noise * variance
        losses.append(missing + (error * variance).sum())  # @inspect losses
    return np.array(losses)


def cosine(num_steps, peak=0.7):
    return peak * 0.5 * (1 + np.cos(np.pi * np.arange(num_steps) / num_steps))


def drawing_the_line():
    text("## Drawing the line, and where it lies")
    text(r"""
        Errors of a power law are factors, not amounts, so fit $\log y = \log k + a \log x$. Fitting $y$ itself lets the
        largest values decide alone. On our own IsoFLOP table, whose law is known ($a = 0.514$), from the best size per
        budget:
    """)
    optima = isoflops_optima(load_isoflops(), "parabola")  # @stepover
    budgets, sizes = [o.budget for o in optima], [o.parameters for o in optima]
    factors = np.exp(np.random.default_rng(0).normal(size=(50, len(sizes))) * 0.2)
    logs = [fit_power_law(budgets, np.array(sizes) * factor).a for factor in factors]  # @stepover
    plain = [fit_power_law_linear(budgets, np.array(sizes) * factor).a for factor in factors]  # @stepover
    spread = {"logarithms": np.std(logs), "plain": np.std(plain)}  # @inspect spread
    assert spread["plain"] > 1.5 * spread["logarithms"]
    text("""
        With errors of 20 % in each size, the exponent scatters by {logs:.3f} if fitted in logarithms and by {plain:.3f}
        if not.

        **Trap: the floor.** No model predicts text perfectly; the loss ends at the entropy of the text. A law with a
        floor is *not* a straight line on logarithmic axes, but over a short range it looks like one:
    """, logs=spread["logarithms"], plain=spread["plain"])  # fmt: skip
    tokens = np.geomspace(1e6, 1e9, 7)
    losses = 1.7 + 60 * tokens**-0.3
    straight = fit_power_law(tokens[:4], losses[:4])  # @inspect straight @stepover
    bent = fit_floored_power_law(tokens[:4], losses[:4])  # @inspect bent @stepover
    grid = np.geomspace(1e6, 1e13, 40)
    curves = {"straight line": straight(grid), "with floor": bent(grid), "truth": 1.7 + 60 * grid**-0.3}
    figure = plot_overlaid_curves({name: list(zip(grid, y, strict=True)) for name, y in curves.items()},
                                  xlabel="tokens", ylabel="loss", logarithmic=True)  # fmt: skip
    figure.axes[0].set_xscale("log")
    figure.axes[0].axvspan(1e6, tokens[3], alpha=0.15, color="#8a8f98", linewidth=0)
    plot(figure, alt="Two fits to the shaded range agree there; far right the straight line falls below the truth.")
    error = abs(straight(tokens[:4]) / losses[:4] - 1).max()  # @inspect error
    assert error < 0.02 and straight(1e13) < 1.7 < bent(1e13) < 1.72
    text("""
        Both laws were fitted in the shaded range, where the straight one errs by at most {error:.1%}. At $10^{13}$
        tokens it promises {far:.2f} nats, which is **less than the entropy**. Extrapolate a thousandfold and small
        errors of *form* are what counts, not noise.
    """, error=error, far=straight(1e13))  # fmt: skip


def kaplan():
    text("## The laws of 2020")
    text(r"""
        {kaplan} trained Transformers over seven powers of ten and found, each with the other quantities not limiting,

        | varied | law | exponent |
        |---|---|---|
        | parameters without embeddings | $(8.8 \cdot 10^{13} / N)^{0.076}$ | 0.076 |
        | tokens | $(5.4 \cdot 10^{13} / D)^{0.095}$ | 0.095 |
        | compute, best used | $(3.1 \cdot 10^8 / C)^{0.050}$, in PF-days | 0.050 |

        and that shape hardly matters: depth against width, heads, feed-forward, within wide limits. What does it take?
    """, kaplan=KAPLAN)  # fmt: skip
    loss = (8.8e13 / 1.5e9) ** 0.076  # @inspect loss
    ten_times = 10**-0.076  # @inspect ten_times
    for_half = 2 ** (1 / 0.076)  # @inspect for_half
    assert 0.83 < ten_times < 0.85 and 9000 < for_half < 9200
    text("""
        Ten times the parameters multiply the loss by {ten:.2f}; to halve it one needs {half:,.0f} times as many. Their
        advice for a larger budget was mostly a larger model, $N^* \\propto C^{{0.73}}$, on few tokens, and for two
        years everybody built large, undertrained models.
    """.replace("{{0.73}}", "{0.73}"), ten=ten_times, half=for_half)  # fmt: skip


def two_variables():
    text("## One law of both")
    text(r"""
        {hoffmann} wrote the loss as a sum of three parts,

        $$L(N, D) = E + \frac{A}{N^\alpha} + \frac{B}{D^\beta}$$

        the entropy of text, what a finite model misses, and what finite data misses: the form that our laboratory has.
        Two sets of constants for the same runs:
    """, hoffmann=HOFFMANN)  # fmt: skip
    original, refit = PUBLISHED.values()  # @inspect original refit
    text("""
        The second is a later fit by {besiroglu}, who read the points off a figure: the first fit had stopped too early.
        We shall see below how that happens.
    """, besiroglu=BESIROGLU)  # fmt: skip


def best_split():
    text("### The best split of a budget")
    text(r"""
        With $C = 6ND$, one more percent of $N$ costs one percent of $D$. At the best split the gains are equal,

        $$\frac{\partial L}{\partial \log N} = \frac{\partial L}{\partial \log D}
        \quad\Longleftrightarrow\quad \frac{\alpha A}{N^\alpha} = \frac{\beta B}{D^\beta}$$

        and putting in $D = C/6N$ gives

        $$N^* = G\left(\frac{C}{6}\right)^{a}, \quad D^* = \frac{1}{G}\left(\frac{C}{6}\right)^{1-a}, \quad
        a = \frac{\beta}{\alpha+\beta}, \quad G = \left(\frac{\alpha A}{\beta B}\right)^{\frac{1}{\alpha+\beta}}$$
    """)
    law = PUBLISHED["Besiroglu et al. 2024"]
    size, tokens = law.allocation(5.88e23)  # @inspect size tokens @stepover
    sizes = np.geomspace(1e9, 1e12, 100_001)
    by_trying = sizes[law.loss(sizes, 5.88e23 / (6 * sizes)).argmin()]  # @inspect by_trying @stepover
    assert abs(by_trying / size - 1) < 1e-3
    balance = law.alpha * law.A / size**law.alpha - law.beta * law.B / tokens**law.beta  # @inspect balance
    assert abs(balance) < 1e-12
    text("""
        For Chinchilla's budget, formula and brute force agree: {size:.0f} billion parameters, {tokens:.1f} trillion
        tokens. If $\\alpha \\approx \\beta$, then $a \\approx 1/2$: **size and data should grow alike.**
    """, size=size / 1e9, tokens=tokens / 1e12)  # fmt: skip


def chinchilla():
    text("### Twenty tokens per parameter?")
    ratios = {}
    for name, law in PUBLISHED.items():  # @stepover
        sizes, tokens = law.allocation(np.array([1e18, 1e21, 1e24]))  # @stepover
        ratios[name] = tokens / sizes  # @inspect ratios
    first, second = ratios.values()
    corners = [replace(PUBLISHED["Hoffmann et al. 2022"], alpha=0.34 + da, beta=0.28 + db).allocation(1e24)
               for da in (-0.005, 0.005) for db in (-0.005, 0.005)]  # fmt: skip
    rounding = sorted(float(tokens / size) for size, tokens in corners)  # @inspect rounding
    assert first[0] < 30 and first[2] > 90 and np.ptp(second) < 15 and rounding[0] > 40
    text("""
        At $10^{18}$, $10^{21}$ and $10^{24}$ FLOPs. **Trap:** Hoffmann's published constants do not say twenty: they go
        from {low:.0f} to {high:.0f}, against the paper's own table. Rounding alone does not explain it: exponents that
        round to the same two digits give {least:.0f} to {most:.0f} at $10^{24}$. The refit stays between {a:.0f} and
        {b:.0f}.
    """, low=first[0], high=first[2], least=rounding[0], most=rounding[-1], a=second.min(), b=second.max())  # fmt: skip
    text("**Never extrapolate with constants from the text of a paper; refit the data.**")
    quiz(
        "You have ten times Chinchilla's compute, $5.9 \\cdot 10^{24}$ FLOPs. How large a model, on how many tokens?",
        "Both grow by about $\\sqrt{10} = 3.2$: 220 billion parameters and 4.4 trillion tokens.",
    )


def isoflops():
    text("## Finding the optimum: profiles")
    text("""
        The most robust way asks nothing about the form of $L(N, D)$. Fix a budget, train models of several sizes on as
        many tokens as the budget allows, and look where the loss is least. Too small a model cannot use its data, too
        large a one sees too little. These are **real runs**, which the course's own sweep made (stories of a small
        world, CPU, up to $10^{12}$ FLOPs):
    """)
    records = load_bank(BANK)  # @stepover
    profiles = bank_table(records, corpus="stories", roles=("profile",))  # @stepover
    profiles = profiles[(profiles.budget > 5e9) & (profiles.budget < 5e11)]  # @stepover
    num_runs, budgets = len(profiles), profiles.budgets  # @inspect num_runs budgets
    fit = fit_isoflops(profiles, "parabola")  # @stepover
    plot(
        plot_profiles(profiles, fit), alt="Four valleys of loss over size; their lowest points move right with budget."
    )
    exponents = {
        m: fit_isoflops(profiles, m).parameters.a for m in ("lowest", "parabola")
    }  # @inspect exponents @stepover
    text("""
        A parabola in $\\log N$ gives each budget's best size (star), and a power law through the stars the exponent
        $a$: {parabola:.2f}; the lowest runs themselves give {lowest:.2f}. Four budgets over a factor of 30 do not pin
        it down better. On a table without noise one sees how large each method's own error is:
    """, parabola=exponents["parabola"], lowest=exponents["lowest"])  # fmt: skip
    table = load_isoflops()  # @stepover
    clean = {m: fit_isoflops(table, m).parameters.a for m in ("lowest", "parabola")}  # @inspect clean @stepover
    truth = LAW.parameter_exponent  # @inspect truth @stepover
    assert abs(clean["parabola"] - truth) < 0.001 and abs(clean["lowest"] - truth) > 0.04
    largest = {m: fit_isoflops(table, m).parameters(1e24) / 1e9 for m in clean}  # @inspect largest @stepover
    text("""
        The lowest run is as coarse as the grid. At $10^{24}$ FLOPs, some three hundred times the largest budget, the
        two differ by a factor of {factor:.1f}. **Trap:** a parabola through a wide or off-centre profile is biased too.
    """, factor=largest["parabola"] / largest["lowest"])  # fmt: skip
    exercise("Fit IsoFLOP profiles and predict the best size at $10^{23}$ and $10^{24}$ FLOPs.",
             function=fit_isoflops, test="tests/test_scaling_laws.py")  # fmt: skip
    exercise("A third way uses the lower envelope of all training curves. Which runs does it need?",
             function=fit_envelope, test="tests/unit/scaling/test_hyperparameter_laws.py")  # fmt: skip


def fitting_a_surface():
    text("## Fitting the whole surface")
    text(r"""
        The other way uses all runs at once. With $a = \ln A$, $b = \ln B$, $e = \ln E$ the law is a *log-sum-exp*,

        $$\ln L = \ln\left(e^{\,e} + e^{\,a - \alpha \ln N} + e^{\,b - \beta \ln D}\right)$$

        and one minimises a robust (Huber) loss of its error, so that a bad run does not decide. First on runs from a
        law that we know, with 1 % noise, for the method must find what was put in:
    """)
    truth = ParametricLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)  # @inspect truth
    runs = simulated_runs(truth, noise=0.01)  # @stepover
    fit = fit_parametric_robust(runs).law  # @inspect fit @stepover
    resampled = bootstrap_parametric(runs, fit_parametric_robust(runs), num_resamples=200, seed=0)  # @stepover
    intervals = resampled.parameters()  # @stepover
    shown = {name: str(interval) for name, interval in intervals.items()}  # @inspect shown
    inside = [name for name in ("E", "A", "B", "alpha", "beta") if getattr(truth, name) in intervals[name]]
    assert len(inside) >= 3  # @inspect inside
    width = {name: (i.high - i.low) / i.value for name, i in intervals.items()}  # @inspect width
    assert width["A"] > 5 * width["a"]
    text("""
        The intervals come from a **bootstrap**: refit the law to itself plus redrawn residuals. {held} of 5 hold the
        truth; at 90 % each, some must miss now and then, and $B$ and $\\beta$ do so together. But note their widths:
        $A$ is uncertain by {wide:.0%}, the exponent $a$ of the best size by {narrow:.0%}. $A$ and $\\alpha$ trade
        against each other; what they predict *together* is known far better than either.
    """, held=len(inside), wide=width["A"], narrow=width["a"])  # fmt: skip
    exercise("Fit the law robustly, and give intervals.", function=fit_parametric,
             test="tests/unit/scaling/test_parametric.py")  # fmt: skip


def simulated_runs(law, noise):
    budgets = np.repeat([1e17, 1e18, 1e19, 1e20], 8)
    sizes = law.allocation(budgets)[0] * np.tile(np.geomspace(0.15, 6, 8), 4)
    tokens = budgets / (6 * sizes)
    factor = np.exp(noise * np.random.default_rng(0).normal(size=32))
    return RunTable(sizes, tokens, budgets, law.loss(sizes, tokens) * factor)


def many_valleys():
    text("### Trap: the optimizer stops somewhere")
    text("""
        The surface of five parameters has long flat valleys, and an optimizer that stops early reports whatever it has,
        with no error. The same law again, without any noise, fitted by Adam and stopped after some number of steps:
    """)
    truth = ParametricLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
    runs = simulated_runs(truth, noise=0.0)  # @stepover
    stopped = fit_by_adam(runs, (100, 300, 1000))  # @inspect stopped @stepover
    whole = fit_parametric(runs).law.parameter_exponent  # @inspect whole @stepover
    right = truth.parameter_exponent  # @inspect right
    assert abs(whole - right) < 0.001 and min(abs(a - right) for a in stopped.values()) > 0.005
    text("""
        The exponent is {right:.3f}; after 100 steps the fit says {early:.2f}, after 1000 still {late:.3f}. Nothing
        warns. {besiroglu} found that the third method of Chinchilla had stopped like this. The library starts from a
        grid of exponents, for each of which the other three follow in closed form, and goes down with second
        derivatives to the end.
    """, right=right, early=stopped[100], late=stopped[1000], besiroglu=BESIROGLU)  # fmt: skip


def fit_by_adam(runs, steps):
    log_n, log_d, log_loss = (torch.tensor(np.log(x)) for x in (runs.parameters, runs.tokens, runs.loss))
    theta = torch.tensor([5.0, 5.0, 0.5, 0.3, 0.3], dtype=torch.float64, requires_grad=True)  # a, b, e, alpha, beta
    optimizer = torch.optim.Adam([theta], lr=0.01)
    exponents = {}
    for step in range(1, max(steps) + 1):
        a, b, e, alpha, beta = (theta[i] for i in range(5))
        terms = torch.stack([a - alpha * log_n, b - beta * log_d, e.expand(len(log_n))])
        loss = torch.nn.functional.huber_loss(terms.logsumexp(dim=0), log_loss, delta=1e-3, reduction="sum")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in steps:
            exponents[step] = float(theta.detach()[4] / theta.detach()[3:].sum())
    return exponents


def real_runs():
    text("## Now in earnest: predict a run that was not fitted")
    text("All of the bank's runs on stories at the rates and batches meant to be best, the largest budget held out:")
    runs = bank_table(load_bank(BANK), corpus="stories")  # @stepover
    fit = fit_parametric_robust(runs[runs.budget < 5e11])  # @stepover
    law = fit.law  # @inspect law
    held = held_out_error(runs, num_resamples=100)  # @stepover
    interval, error = str(held.predicted[0]), held.errors[0]  # @inspect interval error
    assert abs(error) < 0.2 and held.inside == 1.0
    real = float(runs[runs.budget > 5e11].loss[0])  # @inspect real
    plot(plot_predicted_against_real(held.predicted, [real], label="held-out run of 1e12 FLOPs"),
         alt="One point with a long vertical interval, a little below the diagonal.")  # fmt: skip
    text("""
        Predicted {interval}, real {real:.3f}: an error of {error:.0%}, inside an interval that is honest about how
        little 56 small runs say. The point that is never allowed: to look at the large run first, and then to find the
        fit that predicts it.
    """, interval=interval, real=real, error=error)  # fmt: skip
    exercise("Predict the best size, its loss and hyperparameters ten times beyond your runs.",
             function=held_out_error, test="tests/unit/scaling/test_design.py")  # fmt: skip


def counting():
    text("## Trap: what is a parameter?")
    text("""
        Kaplan counted parameters without embeddings, Chinchilla all of them. For a small model with a large vocabulary
        these differ by factors, and by *different* factors at different sizes, which bends the line. The same runs of
        the bank under three rules:
    """)
    records = load_bank(BANK)  # @stepover
    exponents = {}  # @inspect exponents
    for rule in COUNTING_RULES:  # @inspect rule
        runs = bank_table(records, corpus="stories", rule=rule)  # @stepover
        exponents[rule] = fit_parametric_robust(runs).law.parameter_exponent  # @stepover
    assert exponents["non_embedding"] > exponents["with_head"] + 0.1 > exponents["total"] + 0.1
    text("""
        From {high:.2f} to {low:.2f}, from nothing but a definition. {porian} find the same for the two papers: Kaplan's
        0.73 becomes Chinchilla's 0.5 once the head's FLOPs are counted, the warm-up fits small runs, and rate and batch
        are tuned at each size. **A law holds for the way in which its quantities were counted.**
    """, high=exponents["non_embedding"], low=exponents["total"], porian=PORIAN)  # fmt: skip
    exercise("Count parameters under each rule.", function=count_parameters,
             test="tests/unit/scaling/test_sizing.py")  # fmt: skip


def schedules():
    text("## Trap: points in the middle of a schedule")
    text("""
        A cosine schedule ends with a small learning rate, which averages noise away: the loss falls fastest at the end.
        It is tempting to train *one* long run per size and to read off its loss at every budget. In our laboratory
        ($C = ND$), each run with a schedule of its own length, against one of 4096 steps read midway:
    """)
    sizes = 2 ** np.arange(2, 11)
    long = {n: train_spectrum(n, cosine(4096)) for n in sizes}  # @stepover
    budgets = 2 ** np.arange(11, 18)
    matched = [best_size(c, sizes, lambda n, d: train_spectrum(n, cosine(d))[-1]) for c in budgets]  # @stepover
    midway = [best_size(c, sizes, lambda n, d: long[n][d - 1]) for c in budgets]  # @inspect matched midway @stepover
    exponents = fit_power_law(budgets, matched).a, fit_power_law(budgets, midway).a  # @inspect exponents @stepover
    excess = midway[0] / matched[0]  # @inspect excess
    assert abs(exponents[0] - 0.4) < 0.03 and exponents[0] - exponents[1] > 0.03 and excess > 1.3
    text("""
        By theory $N^* \\propto C^{0.4}$ (from $N^{1.5} \\propto D$). Matched schedules find {right:.2f}, midway
        readings {wrong:.2f}, with sizes up to {excess:.0%} off: a run that has not yet cooled down looks worse than it
        is, by different amounts at different budgets. {hoffmann} gave this as the reason why Kaplan's advice was wrong;
        {porian} found that counting and warm-up explain more of it. Lecture 11 has the remedy, a schedule that can be
        ended anywhere.
    """, right=exponents[0], wrong=exponents[1], excess=excess - 1, hoffmann=HOFFMANN, porian=PORIAN)  # fmt: skip


def best_size(budget, sizes, loss):
    tried = [(n, loss(n, budget // n)) for n in sizes if 8 <= budget // n <= 4096]
    lowest = min(range(len(tried)), key=lambda i: tried[i][1])
    start = min(max(lowest - 1, 0), len(tried) - 3)
    x, y = np.array(tried[start : start + 3]).T
    curvature, slope, _ = np.polyfit(np.log(x), y, 2)
    return math.exp(-slope / (2 * curvature))


def smooth_and_sudden():
    text("## Does everything scale smoothly?")
    text("""
        The loss does. Abilities seem to come suddenly: useless, useless, useless, solved. Part of that is the ruler.
        Let the probability to get one token right rise smoothly with size, and ask for ten right ones in a row:
    """)
    sizes = np.geomspace(1e7, 1e12, 11)
    one_token = 1 - 0.8 * (sizes / 1e7) ** -0.3
    ten_tokens = one_token**10
    gained = {"one token": one_token[3] - one_token[0], "ten": ten_tokens[3] - ten_tokens[0]}  # @inspect gained
    assert gained["one token"] > 0.4 and gained["ten"] < 0.06 and ten_tokens[-1] > 0.7
    text("""
        Over the first 1.5 powers of ten the one rises by {smooth:.2f}, the other by {sudden:.3f}, and then goes to
        {end:.2f}. {schaeffer} show that many abilities called *emergent* are smooth under a smooth measure. So predict
        the loss, or the probability of the right answer, first, and translate into accuracy last.
    """, smooth=gained["one token"], sudden=gained["ten"], end=ten_tokens[-1], schaeffer=SCHAEFFER)  # fmt: skip


def beyond_training():
    text("## Best for whom?")
    text(r"""
        Chinchilla's optimum is the best model for a *training* budget. Whoever serves $D_{\text{inf}}$ tokens pays
        $2ND_{\text{inf}}$ FLOPs on top. Which size reaches the loss of a Chinchilla-optimal 70-billion model at the
        least cost in all {sardana}?
    """, sardana=SARDANA)  # fmt: skip
    law = PUBLISHED["Besiroglu et al. 2024"]
    flops = 6 * 70e9 * 1.4e12
    target = float(law.loss(*law.allocation(flops)))  # @inspect target @stepover
    best = {served: cheapest(law, target, served) for served in (0, 1e13, 1e14)}  # @inspect best @stepover
    sizes = [size for size, _ in best.values()]  # @inspect sizes
    assert sizes[0] > sizes[1] > sizes[2] and abs(sizes[0] / float(law.allocation(flops)[0]) - 1) < 0.02
    ratios = [tokens / size for size, tokens in best.values()]  # @inspect ratios
    text("""
        With nothing served, {a:.0f} tokens per parameter; with a hundred trillion served, {b:.0f}, and the model is
        {less:.0%} smaller. Models that millions use are trained far beyond twenty, on purpose; how far the law still
        holds there must be tested.
    """, a=ratios[0], b=ratios[2], less=1 - sizes[2] / sizes[0])  # fmt: skip


def cheapest(law, target, served):
    sizes = np.geomspace(5e9, 5e11, 20_000)
    left = target - law.E - law.A * sizes**-law.alpha
    sizes, left = sizes[left > 0], left[left > 0]
    tokens = (law.B / left) ** (1 / law.beta)
    best = (6 * sizes * tokens + 2 * sizes * served).argmin()
    return sizes[best], tokens[best]


def summary():
    text("## What to take home")
    text(r"""
        - Loss falls as a power law plus a floor; the form of the fit decides when you extrapolate.
        - $L = E + AN^{-\alpha} + BD^{-\beta}$, and at the best split $\alpha A N^{-\alpha} = \beta B D^{-\beta}$.
        - IsoFLOP profiles need no form; a parametric fit uses all runs. Do both, give intervals, hold a budget out.
        - Traps: rounded constants, fits that stop early, counting rules, unfinished schedules, sudden metrics.
        - Twenty tokens per parameter is the answer to a question about training only.

        *Next: what happens after training, inference.*
    """)


if __name__ == "__main__":
    main()

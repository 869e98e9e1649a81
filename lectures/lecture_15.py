"""From a model that continues to one that answers: fine-tuning and preferences.

Lecture 15 of the course: supervised fine-tuning on responses, what instruction data teaches besides, preferences and
reward models, the optimum of reward under a divergence, PPO's advantages, DPO derived and verified, and over-optimised
rewards. It prepares assignment 5, problems `tokenize_prompt_and_output`, `sft_microbatch_train_step` and (supplement)
`dpo_loss`. Left out: rewards that can be checked (lecture 16). Read next: `lecture_16.py`.
"""

import math

import numpy as np
import torch

from cs336_alignment.course_2025 import sft_microbatch_train_step
from cs336_alignment.dpo import compute_per_instance_dpo_loss, dpo_loss
from cs336_alignment.evaluation.pairwise import fit_length_model
from cs336_alignment.ppo import generalized_advantages
from cs336_alignment.response_log_probs import get_response_log_probs
from cs336_alignment.response_tokens import tokenize_prompt_and_output
from cs336_alignment.reward_model import RewardTrainer, bradley_terry_loss
from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.plots import plot_overlaid_curves
from cs336_basics.tokenization.tokenizer import Tokenizer
from lectures.content import Reference, exercise, note, plot, quiz, text


def cite(title, authors, year, arxiv=""):  # @stepover @hide
    url = f"https://arxiv.org/abs/{arxiv}" if arxiv else None  # @hide
    return Reference(title=title, authors=authors.split(", "), date=str(year), url=url)  # @hide


OUYANG = cite(
    "Training language models to follow instructions with human feedback", "Long Ouyang, et al.", 2022, "2203.02155"
)
WEI = cite("Finetuned Language Models Are Zero-Shot Learners", "Jason Wei, et al.", 2022, "2109.01652")
WANG = cite("Self-Instruct: Aligning Language Models with Self-Generated Instructions", "Yizhong Wang, et al.", 2023)
ZHOU = cite("LIMA: Less Is More for Alignment", "Chunting Zhou, et al.", 2023, "2305.11206")
GUDIBANDE = cite("The False Promise of Imitating Proprietary LLMs", "Arnav Gudibande, et al.", 2023, "2305.15717")
GEKHMAN = cite(
    "Does Fine-Tuning LLMs on New Knowledge Encourage Hallucinations?", "Zorik Gekhman, et al.", 2024, "2405.05904"
)
DUBOIS = cite("Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators", "Yann Dubois, et al.", 2024)
BIANCHI = cite("Safety-Tuned LLaMAs: Lessons From Improving the Safety of Large Language Models that Follow Instructions",
               "Federico Bianchi, et al.", 2024, "2309.07875")  # fmt: skip
BRADLEY = cite("Rank Analysis of Incomplete Block Designs: The Method of Paired Comparisons",
               "Ralph Bradley, Milton Terry", 1952)  # fmt: skip
CHRISTIANO = cite("Deep Reinforcement Learning from Human Preferences", "Paul Christiano, et al.", 2017, "1706.03741")
SCHULMAN = cite(
    "High-Dimensional Continuous Control Using Generalized Advantage Estimation", "John Schulman, et al.", 2016
)
RAFAILOV = cite("Direct Preference Optimization: Your Language Model is Secretly a Reward Model", "Rafael Rafailov, et al.",
                2023, "2305.18290")  # fmt: skip
RAZIN = cite(
    "Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization", "Noam Razin, et al.", 2024
)
GAO = cite("Scaling Laws for Reward Model Overoptimization", "Leo Gao, John Schulman, Jacob Hilton", 2022, "2210.10760")
BAI = cite("Constitutional AI: Harmlessness from AI Feedback", "Yuntao Bai, et al.", 2022, "2212.08073")


def main():
    text("# From continuing to answering")
    text("*Lecture 15: supervised fine-tuning and learning from preferences*")
    what_is_missing()
    the_mask()
    learning_to_answer()
    what_else_is_taught()
    safety()
    preferences()
    judges_like_length()
    reward_and_divergence()
    ppo_advantages()
    dpo_derived()
    dpo_verified()
    dpo_trap()
    over_optimisation()
    which_method()
    summary()


def what_is_missing():
    text("## What a base model lacks")
    text("""
        Asked *What is the capital of France?*, a base model may go on with *What is the capital of Spain?*: on the web,
        questions come in lists. The knowledge is there, the wish to answer is not. Two steps give it {ouyang}:

        1. **Supervised fine-tuning** (SFT): imitate good answers. Same loss as before, other data.
        2. **Learning from preferences**: people (or models) say which of two answers is better; make such answers likely.

        Why the second? Writing a good answer is dear and hard, comparing two is cheap; and imitation can only be as good
        as what it imitates.
    """, ouyang=OUYANG)  # fmt: skip
    text("""
        | instruction data | made by | strong in | weak in |
        |---|---|---|---|
        | FLAN {wei} | research tasks in templates | breadth | sounds like a test |
        | Self-Instruct {wang}, Alpaca | a model, from 175 seed tasks | cheap, varied | errors of the model |
        | LIMA {zhou} | 1000 examples chosen by hand | style from very few | cannot add abilities |
        | InstructGPT {ouyang} | paid writers | what users ask | price, guidelines decide |
    """, wei=WEI, wang=WANG, zhou=ZHOU, ouyang=OUYANG)  # fmt: skip


BYTES = Tokenizer({**{i: bytes([i]) for i in range(256)}, 256: b"<|endoftext|>"}, [], ["<|endoftext|>"])
PROMPTS = ["Q: 2+3? A:", "Q: sky? A:", "Q: 4+4? A:", "Q: sea? A:"]
ANSWERS = [" 5<|endoftext|>", " blue<|endoftext|>", " 8<|endoftext|>", " deep<|endoftext|>"]


def the_mask():
    text("## Supervised fine-tuning: learn the response, not the prompt")
    text(r"""
        A pair of prompt $x$ and response $y$ becomes one sequence; the loss counts response tokens only,

        $$L = -\sum_t m_t \log \pi_\theta(z_{t} \mid z_{<t}), \qquad m_t = 1 \text{ where } z_t \text{ belongs to } y .$$

        The model must not learn to *ask*. Inputs and labels are the sequence moved by one, and so is the mask:
    """)
    batch = tokenize_prompt_and_output(PROMPTS[:2], ANSWERS[:2], BYTES)  # @stepover
    input_ids, labels, mask = batch["input_ids"], batch["labels"], batch["response_mask"]  # @inspect labels mask
    learnt = [
        BYTES.decode(row[keep].tolist()) for row, keep in zip(labels, mask, strict=True)
    ]  # @inspect learnt @stepover
    assert learnt == ANSWERS[:2] and torch.equal(input_ids[:, 1:], labels[:, :-1])
    text("""
        **Trap: off by one.** The first response token is predicted from the last token of the prompt, so the mask begins
        one place *before* the response does in the inputs. **Trap: no end.** The end-of-text token is part of the response;
        without it the model never learns to stop.
    """)
    torch.manual_seed(0)
    model = TransformerLM(
        ModelConfig(vocab_size=257, context_length=32, d_model=32, num_layers=1, num_heads=2)
    )  # @stepover
    log_probs = get_response_log_probs(model, input_ids, labels)["log_probs"]  # @inspect log_probs.shape @stepover
    log_probs.retain_grad()
    loss, facts = sft_microbatch_train_step(log_probs, mask, 1)  # @inspect loss facts @stepover
    by_hand = -sum(log_probs[i, t].item() for i, t in mask.nonzero().tolist()) / 2  # @stepover
    assert math.isclose(loss.item(), by_hand, rel_tol=1e-5) and (log_probs.grad[~mask] == 0).all()
    text("No gradient comes from the prompt or the padding.")
    quiz("Two responses have 2 and 200 tokens. How do the mean over all tokens and the mean of the means of the responses "
         "differ?", "In the first the long response weighs 100 times as much, in the second each weighs the same, and each "
         "token of the short one 100 times as much. Neither is wrong, but with gradient accumulation only sums divided by "
         "one common number give the same as a large batch.")  # fmt: skip
    exercise("Tokenise pairs and make the mask.", function=tokenize_prompt_and_output, test="tests/test_sft.py")


def learning_to_answer():
    text("### It works on four examples")
    batch = tokenize_prompt_and_output(PROMPTS, ANSWERS, BYTES)  # @stepover
    curves = {}
    for masked in (True, False):  # @inspect masked
        curves |= imitate(batch, masked)  # @stepover
    plot(plot_overlaid_curves(curves, xlabel="step", ylabel="loss, nats per token"),
         alt="With the mask the loss on responses falls and that on prompts rises; without it both fall.")  # fmt: skip
    final = {name: round(curve[-1][1], 2) for name, curve in curves.items()}  # @inspect final
    start = curves["prompts, masked"][0][1]  # @inspect start
    assert final["responses, masked"] < 0.3 and final["prompts, masked"] > start > 2 * final["prompts, not masked"]
    text("""
        Without the mask the model learns to write the questions as well ({plain:.1f} nats per token). With it they become
        *less* likely than before, {start:.1f} to {masked:.1f}: the parameters are shared, and what no loss holds drifts. A
        little of it happens to all that a model knew, and is called forgetting. Where responses are short, some train on
        prompts on purpose.
    """, masked=final["prompts, masked"], plain=final["prompts, not masked"], start=start)  # fmt: skip


def imitate(batch, masked, steps=60):
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=257, context_length=32, d_model=32, num_layers=1, num_heads=2))
    optimizer = AdamW(model.parameters(), lr=1e-2)
    response = batch["response_mask"]
    filled = torch.arange(response.shape[1]) <= response.shape[1] - 1 - response.flip(1).int().argmax(
        dim=1, keepdim=True
    )
    names = {"responses": response, "prompts": filled & ~response}
    curves = {f"{name}, {'masked' if masked else 'not masked'}": [] for name in names}
    for step in range(steps):
        log_probs = get_response_log_probs(model, batch["input_ids"], batch["labels"])["log_probs"]
        for curve, part in zip(curves.values(), names.values(), strict=True):
            curve.append((step, -log_probs[part].mean().item()))
        loss = -log_probs[response if masked else filled].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return curves


def what_else_is_taught():
    text("## What instruction data teaches besides")
    text("""
        - **Style.** Length, lists and tone are copied first. A model fine-tuned on the output of a stronger one sounds like
          it long before it knows as much {gudibande}; judges are taken in.
        - **Invention.** An answer whose fact the model does *not* know teaches: when asked, say something that sounds right.
          New facts are learnt slowly in fine-tuning, and with them the habit {gekhman}.
        - **Abilities** come mostly from pre-training; SFT calls them up. So a few thousand good examples do much, and more
          of the same kind does little.
    """, gudibande=GUDIBANDE, gekhman=GEKHMAN)  # fmt: skip
    text(
        "How invention pays: let a model know 60% of the answers. What does each habit earn under two ways of grading?"
    )
    known, guess_right, wrong = 0.6, 0.1, -1.0
    habits = {}  # @inspect habits
    for habit in ("always answers", "says when it does not know"):
        unknown = (guess_right, 1 - guess_right) if habit == "always answers" else (0.0, 0.0)
        right, errors = known + (1 - known) * unknown[0], (1 - known) * unknown[1]
        habits[habit] = {"share right": right, "right minus wrong": right + wrong * errors}
    assert habits["always answers"]["share right"] > habits["says when it does not know"]["share right"]
    assert habits["always answers"]["right minus wrong"] < habits["says when it does not know"]["right minus wrong"]
    text("""
        Graded by the share of right answers, guessing wins; as soon as an error costs, admitting wins. Most benchmarks
        grade the first way. Preference data and rewards can teach the second, because they see *the model's own* answers:
        imitation cannot know what the model knows.
    """)


def safety():
    text("### Safety is a threshold too")
    text("""
        A few hundred examples teach a model to refuse {bianchi}. To refuse what? Suppose that a request's appearance of
        harm is normal with mean 0 for harmless and 2 for harmful ones, and the model refuses above a threshold:
    """, bianchi=BIANCHI)  # fmt: skip
    thresholds = (0.0, 1.0, 2.0)
    rates = {
        t: {"harmful answered": normal_cdf(t - 2), "harmless refused": 1 - normal_cdf(t)} for t in thresholds
    }  # @inspect rates @stepover
    assert math.isclose(rates[1.0]["harmful answered"], rates[1.0]["harmless refused"])
    text("""
        At 1.0 both errors are {both:.0%}; more examples of refusing only move along the curve, from *harmful answered* to
        *how do I kill a process?* refused. Better judgement needs harmless requests that *look* harmful among the data.
    """, both=rates[1.0]["harmful answered"])  # fmt: skip


def normal_cdf(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def preferences():
    text("## From comparisons to a reward")
    text(r"""
        Bradley and Terry {bradley}: let each answer have a worth $r$; the better wins with probability

        $$P(y_1 \succ y_2) = \frac{e^{r_1}}{e^{r_1} + e^{r_2}} = \sigma(r_1 - r_2), \qquad
        L = -\log \sigma(r_{chosen} - r_{rejected}).$$

        A **reward model** is a Transformer with one number as output, fitted to comparisons {christiano}. Here answers have
        three known features (right, polite, long), judges weigh them 2 : 1 : 0.5, and 4000 comparisons are simulated:
    """, bradley=BRADLEY, christiano=CHRISTIANO)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    true = torch.tensor([2.0, 1.0, 0.5])
    first, second = torch.randn(2, 4000, 3, generator=generator)
    wins = torch.rand(4000, generator=generator) < torch.sigmoid((first - second) @ true)
    chosen, rejected = torch.where(wins[:, None], first, second), torch.where(wins[:, None], second, first)
    weights = torch.nn.Parameter(torch.zeros(3))
    for _ in range(60):  # @every 20
        loss = bradley_terry_loss((chosen - rejected) @ weights).mean()  # @inspect loss @stepover
        (gradient,) = torch.autograd.grad(loss, weights)
        weights.data -= 4 * gradient  # @inspect weights
    assert torch.allclose(weights.data, true, atol=0.25)
    agreement = (((chosen - rejected) @ true) > 0).float().mean()  # @inspect agreement
    accuracy = (((chosen - rejected) @ weights) > 0).float().mean()  # @inspect accuracy
    assert abs(accuracy - agreement) < 0.01 and agreement < 0.9
    text("""
        The weights come back. The accuracy is {accuracy:.1%}, and so is that of the *true* reward: judges disagree with
        themselves. **Trap:** a reward model with 70% accuracy may be near perfect or useless; compare with how often two
        people agree.
    """, accuracy=accuracy)  # fmt: skip
    shifted = bradley_terry_loss((chosen @ weights + 7) - (rejected @ weights + 7)).mean()  # @inspect shifted @stepover
    assert torch.isclose(shifted, bradley_terry_loss((chosen - rejected) @ weights).mean())
    text("Only differences count: a constant that depends on the prompt alone changes nothing. DPO will live on that.")
    exercise("Train a reward model on pairs of responses.", function=RewardTrainer,
             test="tests/unit/alignment/test_preferences.py")  # fmt: skip


def judges_like_length():
    text("### Judges like length")
    text("""
        Two models of *equal* quality; the second writes longer, and the judge, man or machine, favours length a little:
    """)
    rng = np.random.default_rng(0)
    difference = rng.normal(200, 300, 4000)  # characters, second minus first
    habit = np.tanh(difference / difference.std())
    wins = rng.random(4000) < 1 / (1 + np.exp(-0.8 * habit))
    raw = wins.mean()  # @inspect raw
    quality, slope = fit_length_model(wins.astype(float), difference)  # @inspect quality slope @stepover
    controlled = 1 / (1 + math.exp(-quality))  # @inspect controlled
    assert raw > 0.56 and abs(controlled - 0.5) < 0.03 and abs(slope - 0.8) < 0.15
    text("""
        It wins {raw:.1%} of comparisons. A regression that asks what the win rate would be at *equal* length {dubois} finds
        {controlled:.1%}. A reward model inherits the habit, and a policy trained on it writes ever longer.
    """, raw=raw, controlled=controlled, dubois=DUBOIS)  # fmt: skip
    exercise("Measure win rates at equal length.", function=fit_length_model,
             test="tests/unit/alignment/test_alignment_evaluation.py")  # fmt: skip


REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REWARD = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
BETA = 0.5


def reward_and_divergence():
    text("## Reward, but near the reference")
    text(r"""
        The reward model is right only near what it was trained on. So one maximises

        $$J(\pi) = E_{y \sim \pi}[r(y)] - \beta\, \mathrm{KL}(\pi \,\|\, \pi_{ref}).$$

        **The optimum in closed form.** Put $\pi^*(y) = \frac{1}{Z} \pi_{ref}(y)\, e^{r(y)/\beta}$, with $Z$ the sum. Then

        $$J(\pi) = \beta\, E_\pi\Big[ \log \frac{\pi_{ref}(y)\, e^{r(y)/\beta}}{\pi(y)} \Big]
        = \beta \log Z - \beta\, \mathrm{KL}(\pi \,\|\, \pi^*),$$

        which is largest where the divergence is zero, at $\pi = \pi^*$. Three responses, and plain gradient ascent:
    """)
    optimum = REFERENCE * torch.exp(REWARD / BETA)
    normaliser = optimum.sum()  # @inspect normaliser
    optimum = optimum / normaliser  # @inspect optimum
    logits = REFERENCE.log().requires_grad_()
    for _ in range(400):  # @every 100
        pi = torch.softmax(logits, 0)  # @inspect pi
        objective = (pi * REWARD).sum() - BETA * (pi * (pi / REFERENCE).log()).sum()  # @inspect objective
        (gradient,) = torch.autograd.grad(objective, logits)
        logits.data += 0.5 * gradient
    assert torch.allclose(pi, optimum, atol=1e-3) and math.isclose(
        objective.item(), BETA * math.log(normaliser), rel_tol=1e-5
    )
    text(r"""
        Ascent finds $\pi^*$, and the value is $\beta \log Z = {value:.3f}$. No response gets probability 0, none that the
        reference cannot write gets any.
    """, value=objective)  # fmt: skip
    quiz(r"What does $\pi^*$ become for $\beta \to 0$ and for $\beta \to \infty$?",
         "All probability on the response of highest reward; and the reference itself.")  # fmt: skip


def ppo_advantages():
    text("### PPO: which token deserves the reward?")
    text(r"""
        The classical way is PPO with four models: the policy, its reference, the reward model, and a **value** model $V_t$
        that guesses the reward still to come. The reward arrives at the last token; advantages spread it:

        $$\delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \sum_{l \ge 0} (\gamma \lambda)^l \delta_{t+l} .$$

        $\lambda = 1$ gives reward to come minus $V_t$: unbiased, noisy. $\lambda = 0$ trusts the value model {schulman}. The
        response below is going well until its third token:
    """, schulman=SCHULMAN)  # fmt: skip
    rewards = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.6, 0.6, 0.2, 0.3]])  # @inspect values
    mask = torch.ones(1, 5, dtype=torch.bool)
    found = {}  # @inspect found
    for smoothing in (0.0, 0.5, 1.0):
        found[smoothing] = generalized_advantages(rewards, values, mask, gamma=1.0, gae_lambda=smoothing)[
            0
        ]  # @stepover
    assert torch.allclose(found[1.0], 1 - values[0]) and torch.allclose(found[0.0][2], torch.tensor(-0.4))
    text("""
        With $\\lambda = 0$ the third token is blamed (-0.4), after which the value fell; with $\\lambda = 1$ all are praised,
        for the end was good. The group methods of lecture 16 drop $V$ and give every token the same advantage.
    """)
    exercise(
        "Compute generalised advantages.", function=generalized_advantages, test="tests/unit/alignment/test_ppo.py"
    )


def dpo_derived():
    text("## DPO: the same optimum without reward model or sampling")
    text(r"""
        Turn the closed form around {dpo}. Every policy is optimal for *some* reward, namely

        $$r(x, y) = \beta \log \frac{\pi(y \mid x)}{\pi_{ref}(y \mid x)} + \beta \log Z(x).$$

        Nobody can compute $Z$. But Bradley-Terry needs only differences of rewards to the *same* prompt, and $Z(x)$ cancels:

        $$L_{DPO} = -\log \sigma\Big( \beta \log \frac{\pi(y_w)}{\pi_{ref}(y_w)} - \beta \log
        \frac{\pi(y_l)}{\pi_{ref}(y_l)} \Big).$$

        Fitting a reward model of this form *is* fitting the policy. Its gradient,

        $$\nabla L = -\beta\, \sigma(\hat r_l - \hat r_w)\, \big( \nabla \log \pi(y_w) - \nabla \log \pi(y_l) \big),$$

        raises the chosen and lowers the rejected response, weighted by how wrong the implicit reward $\hat r$ still is.
    """, dpo=RAFAILOV)  # fmt: skip
    h = torch.tensor([0.3, -0.1], dtype=torch.float64, requires_grad=True)  # log ratios of chosen and rejected
    loss = dpo_loss(h[:1], h[1:], BETA).sum()  # @inspect loss @stepover
    (gradient,) = torch.autograd.grad(loss, h)  # @inspect gradient
    weight = BETA * torch.sigmoid(BETA * (h[1] - h[0])).item()  # @inspect weight
    assert torch.allclose(gradient, torch.tensor([-weight, weight], dtype=torch.float64))
    exercise(
        "Compute the DPO loss of a pair of responses.", function=compute_per_instance_dpo_loss, test="tests/test_dpo.py"
    )


def dpo_verified():
    text("### Verified on three responses")
    text(r"""
        Judges compare all pairs by the rewards 0, 1, 2. With endless data the loss is its expectation over pairs; minimise
        it and compare with $\pi^* \propto \pi_{ref}\, e^{r/\beta}$:
    """)
    optimum = torch.softmax(REFERENCE.log() + REWARD / BETA, 0)  # @inspect optimum
    logits = REFERENCE.log().requires_grad_()
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    wins = torch.stack([torch.sigmoid(REWARD[i] - REWARD[j]) for i, j in pairs])  # @inspect wins
    curves = {f"response {i}": [] for i in range(3)}
    for step in range(400):  # @every 50
        ratios = torch.log_softmax(logits, 0) - REFERENCE.log()  # @inspect ratios
        better, worse = ratios[[i for i, _ in pairs]], ratios[[j for _, j in pairs]]
        loss = (wins * dpo_loss(better, worse, BETA)).sum()  # @inspect loss @stepover
        (gradient,) = torch.autograd.grad(loss, logits)
        logits.data -= 1.0 * gradient
        for i, curve in enumerate(curves.values()):  # @stepover
            curve.append((step, torch.softmax(logits.detach(), 0)[i].item()))  # @stepover
    pi = torch.softmax(logits, 0)  # @inspect pi
    assert torch.allclose(pi, optimum, atol=1e-3)
    plot(plot_overlaid_curves({name: curve[::8] for name, curve in curves.items()}, xlabel="step", ylabel="probability",
                              floor=optimum[2].item(), floor_label="closed form of response 2,"),
         alt="The probability of the best response rises to the value of the closed form, the others fall.")  # fmt: skip
    text("Equal to three digits: DPO, with endless data on all responses, is the optimum of reward under divergence.")
    quiz("Which gradient does a pair give whose margin is already large in the right direction?",
         r"Nearly none: the weight $\sigma(\hat r_l - \hat r_w)$ is near 0. But never exactly none, so with pairs that are always "
         "judged the same way the margin grows without end.")  # fmt: skip


def dpo_trap():
    text("### Trap: both responses may become less likely")
    text("""
        With finite data the loss asks for a *margin* only. Let parameters be shared: one number $\\theta$, logits
        $\\theta \\cdot (1, 2, 0)$ for chosen, rejected, and a third response that nobody ever compared:
    """)
    features = torch.tensor([1.0, 2.0, 0.0])
    theta = torch.nn.Parameter(torch.tensor(1.0))
    reference = torch.log_softmax(features, 0)
    before = reference.exp()  # @inspect before
    for _ in range(100):  # @every 50
        ratio = torch.log_softmax(theta * features, 0) - reference
        loss = dpo_loss(ratio[:1], ratio[1:2], BETA).sum()  # @inspect loss @stepover
        (gradient,) = torch.autograd.grad(loss, theta)
        theta.data -= 0.5 * gradient
    after = torch.softmax(theta * features, 0).detach()  # @inspect after
    margin = (ratio[0] - ratio[1]).item()  # @inspect margin
    assert margin > 2 and after[0] < before[0] and after[2] > 0.8
    text("""
        The margin grows to {margin:.1f}, the preference accuracy is perfect, and the *chosen* response fell from {b:.2f} to
        {a:.2f}: all probability went to what was never judged {razin}. Watch the log-probability of chosen responses; a
        term of SFT on them, or fresh samples of the policy, holds it up.
    """, margin=margin, b=before[0], a=after[0], razin=RAZIN)  # fmt: skip


def over_optimisation():
    text("## When a measure becomes a target")
    text(r"""
        Best-of-$n$: sample $n$ answers, take the one the reward model likes best. It is the simplest optimizer and its
        distance from the reference is known: the best of $n$ has density $n F^{n-1} \pi$, and as $E[\log F] = -1/n$ for it,

        $$\mathrm{KL} = \log n - \frac{n-1}{n} .$$
    """)
    rng = np.random.default_rng(0)
    n = 16
    best = rng.random((20_000, n)).max(axis=1)  # F of the best is the largest of n uniform numbers
    sampled = np.mean(np.log(n) + (n - 1) * np.log(best))  # @inspect sampled
    formula = math.log(n) - (n - 1) / n  # @inspect formula
    assert abs(sampled - formula) < 0.02
    text("""
        Now a gold reward that nobody can measure in bulk: substance $a$ always helps, confident tone $b$ helps at first and
        then hurts. A proxy, linear in both, is fitted to comparisons of ordinary answers, where it is right most of the time:
    """)
    chosen, rejected, accuracy = gold_comparisons(rng)  # @inspect accuracy @stepover
    weights = np.zeros(2)
    for _ in range(50):  # @every 25
        margin = (chosen - rejected) @ weights
        weights += 2 * ((chosen - rejected) / (1 + np.exp(margin))[:, None]).mean(axis=0)  # @inspect weights
    curve = {k: best_of(k, weights, rng) for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)}  # @stepover
    kl = {k: math.log(k) - (k - 1) / k for k in curve}
    plot(plot_overlaid_curves({"proxy reward": [(math.sqrt(kl[k]), proxy) for k, (proxy, _) in curve.items()],
                               "gold reward": [(math.sqrt(kl[k]), gold) for k, (_, gold) in curve.items()]},
                              xlabel="square root of the KL divergence", ylabel="reward"),
         alt="The proxy reward rises all the way; the gold reward rises, bends, and falls again.")  # fmt: skip
    gold = {k: round(value, 2) for k, (_, value) in curve.items()}  # @inspect gold
    peak = max(gold, key=gold.get)  # @inspect peak
    assert 4 <= peak <= 128 and gold[1024] < gold[peak] - 0.2 and curve[1024][0] > curve[64][0]
    text("""
        The proxy ranks {accuracy:.0%} of ordinary pairs as gold does. Up to the best of {peak} gold rises too; beyond, the
        proxy goes on rising while gold falls: **over-optimisation** {gao}, who fitted such curves for real reward models,
        against the same axis. Remedies: stop early, a stronger pull to the reference, new comparisons of what the policy
        writes *now*.
    """, accuracy=ranking_accuracy(chosen, rejected, weights), peak=peak, gao=GAO)  # fmt: skip


def gold_reward(answers):
    return 0.5 * answers[..., 0] + answers[..., 1] - 0.35 * answers[..., 1] ** 2


def gold_comparisons(rng, count=4000):
    first, second = rng.standard_normal((2, count, 2))
    wins = rng.random(count) < 1 / (1 + np.exp(gold_reward(second) - gold_reward(first)))
    chosen, rejected = np.where(wins[:, None], first, second), np.where(wins[:, None], second, first)
    return chosen, rejected, float(np.mean(gold_reward(chosen) > gold_reward(rejected)))


def ranking_accuracy(chosen, rejected, weights):
    """How often the proxy and gold rank a pair alike."""
    return float(np.mean(((chosen - rejected) @ weights > 0) == (gold_reward(chosen) > gold_reward(rejected))))


def best_of(n, weights, rng, repeats=1500):
    answers = rng.standard_normal((repeats, n, 2))
    best = answers[np.arange(repeats), (answers @ weights).argmax(axis=1)]
    return float((best @ weights).mean()), float(gold_reward(best).mean())


def which_method():
    text("## Which method?")
    text("""
        | | SFT | best-of-$n$ | DPO | PPO |
        |---|---|---|---|---|
        | needs | good answers | a reward, $n$ samples per use | pairs | a reward model, fresh samples |
        | models in memory | 1 | 2 | 2 | 4 |
        | learns from its own answers | no | - | only if pairs are its own | yes |
        | fails by | inventing | price, over-optimisation | likelihood falling | instability, over-optimisation |
    """)
    text("""
        The judges need not be people: a model that compares answers by written principles {bai} is cheap, consistent, and
        has habits of its own. Whose preferences these are, the annotators' or the principles' authors', is a choice.
    """, bai=BAI)  # fmt: skip
    note("Ask what the annotation guideline should say about answers that are polite and wrong.")


def summary():
    text("## What to take home")
    text(r"""
        - SFT is next-token prediction with a mask; mind the shift and the end. It teaches style at once and facts slowly.
        - Comparisons fix rewards up to a constant per prompt; judges like length.
        - $\pi^* \propto \pi_{ref}\, e^{r/\beta}$ is what PPO looks for by sampling and DPO by classification.
        - Rewards are proxies. The harder one optimises, the less they mean.
    """)
    text("*Next: rewards that can be checked.*")


if __name__ == "__main__":
    main()

"""Reinforcement learning with rewards that can be checked.

Lecture 16 of the course: verifiers and their errors, variants of DPO, from PPO to GRPO, which questions teach, what
division by the standard deviation and by the length does, clipping and entropy, controls, pass@k, published recipes and
the cost of sampling. It prepares assignment 5, problems `compute_rollout_rewards`, `compute_group_normalized_rewards`
and `aggregate_loss_across_microbatch`. Left out: the derivation of the policy gradient (lecture 17). Read next:
`lecture_17.py`.
"""

import math

import numpy as np
import torch

from cs336_alignment.advantages import compute_group_normalized_rewards, compute_rollout_rewards
from cs336_alignment.dpo import dpo_loss
from cs336_alignment.grpo import GrpoTrainer
from cs336_alignment.grpo_config import METHODS, GrpoConfig
from cs336_alignment.policy_gradient import (
    aggregate_loss_across_microbatch,
    compute_policy_gradient_loss,
    truncated_importance_weights,
)
from cs336_alignment.rewards import r1_zero_reward_fn
from cs336_alignment.rollout_batch import overlong_penalty
from cs336_alignment.statistics import pass_at_k
from cs336_basics.runs.plots import plot_overlaid_curves, plot_values
from lectures.content import Reference, exercise, note, plot, quiz, text


def cite(title, authors, year, arxiv=""):  # @stepover @hide
    url = f"https://arxiv.org/abs/{arxiv}" if arxiv else None  # @hide
    return Reference(title=title, authors=authors.split(", "), date=str(year), url=url)  # @hide


LAMBERT = cite(
    "Tulu 3: Pushing Frontiers in Open Language Model Post-Training", "Nathan Lambert, et al.", 2024, "2411.15124"
)
AZAR = cite(
    "A General Theoretical Paradigm to Understand Learning from Human Preferences",
    "Mohammad Azar, et al.",
    2023,
    "2310.12036",
)
MENG = cite("SimPO: Simple Preference Optimization with a Reference-Free Reward", "Yu Meng, et al.", 2024, "2405.14734")
SHAO = cite("DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models", "Zhihong Shao, et al.",
            2024, "2402.03300")  # fmt: skip
LIU = cite("Understanding R1-Zero-Like Training: A Critical Perspective", "Zichen Liu, et al.", 2025, "2503.20783")
DAPO = cite("DAPO: An Open-Source LLM Reinforcement Learning System at Scale", "Qiying Yu, et al.", 2025, "2503.14476")
R1 = cite("DeepSeek-R1: Incentivizing Reasoning Capability in LLMs via Reinforcement Learning", "Daya Guo, et al.",
          2025, "2501.12948")  # fmt: skip
KIMI = cite("Kimi k1.5: Scaling Reinforcement Learning with LLMs", "Angang Du, et al.", 2025, "2501.12599")
QWEN = cite("Qwen3 Technical Report", "An Yang, et al.", 2025, "2505.09388")
SPURIOUS = cite("Spurious Rewards: Rethinking Training Signals in RLVR", "Rulin Shao, et al.", 2025, "2506.10947")
YUE = cite("Does Reinforcement Learning Really Incentivize Reasoning Capacity in LLMs Beyond the Base Model?", "Yang Yue, et al.",
           2025, "2504.13837")  # fmt: skip
CHEN = cite("Evaluating Large Language Models Trained on Code", "Mark Chen, et al.", 2021, "2107.03374")


def main():
    text("# Rewards that can be checked")
    text("*Lecture 16: reinforcement learning from verifiable rewards*")
    why_check()
    a_verifier()
    noisy_verifiers()
    variants_of_dpo()
    from_ppo_to_grpo()
    which_questions_teach()
    division_by_deviation()
    division_by_length()
    clipping_and_entropy()
    controls()
    sharpening()
    recipes()
    length_as_a_reward()
    cost_of_sampling()
    summary()


def why_check():
    text("## A reward that does not bend")
    text("""
        Lecture 15 ended with a learned reward that breaks when pushed. Some tasks need none: whether an answer is right can
        be *checked* by a program, and however hard one optimises, 7 x 8 stays 56 {lambert}.

        | task | check | what slips through |
        |---|---|---|
        | mathematics with a final answer | compare with the truth | right by luck, wrong on the way |
        | programs | run tests | special-casing the tests |
        | proofs in a formal language | the proof checker | a theorem stated wrongly |
        | instructions ("three sentences") | count | the letter, not the spirit |
    """, lambert=LAMBERT)  # fmt: skip
    text("""
        Most of what people want cannot be checked. The hope is that what is learnt here, to look again, to try another
        way, carries over.
    """)


def a_verifier():
    text("## The checker is a program, with errors of a program")
    text(
        "The reward of our assignment asks for a form, then for the answer. Six responses to a question whose answer is 1/2:"
    )
    responses = {
        "right": "<think> a half </think> <answer> 1/2 </answer>",
        "other notation": "<think> a half </think> <answer> \\frac{1}{2} </answer>",
        "decimal": "<think> a half </think> <answer> 0.5 </answer>",
        "in words": "<think> a half </think> <answer> one half </answer>",
        "no form": "The answer is 1/2.",
        "wrong": "<think> a third? </think> <answer> 1/3 </answer>",
    }
    scores = {
        name: r1_zero_reward_fn(response, "1/2")["reward"] for name, response in responses.items()
    }  # @inspect scores @stepover
    assert [scores[name] for name in ("right", "other notation", "decimal", "no form", "wrong")] == [1, 1, 1, 0, 0]
    raw, means = compute_rollout_rewards(
        r1_zero_reward_fn, list(responses.values()), ["1/2"] * 6
    )  # @inspect raw means @stepover
    missed = scores["in words"] == 0  # @inspect missed
    assert missed and means["mean_format_reward"] == 5 / 6
    text("""
        Notations that mean the same must count as the same, or the policy learns the checker's taste. *One half* in words is
        right and earns nothing: a **false negative**. The answer without the form earns nothing either, so the first thing
        that training teaches is the form, and early gains are mostly that.
    """)
    exercise("Grade answers, and read 20 that your grader gets wrong.", function=r1_zero_reward_fn,
             test="tests/unit/alignment/test_grading.py")  # fmt: skip


def noisy_verifiers():
    text("### How much error can it bear?")
    text(r"""
        A wrong answer is accepted with probability $\epsilon$, a right one refused with probability $\phi$. A model that is
        right with probability $p$ is rewarded for

        $$P(\text{right} \mid \text{rewarded}) = \frac{p (1 - \phi)}{p (1 - \phi) + (1 - p)\, \epsilon} .$$
    """)
    cases = {"strict": (0.0, 0.3), "lenient": (0.05, 0.0)}
    share = {
        (name, p): right_given_reward(p, *case) for name, case in cases.items() for p in (0.01, 0.5)
    }  # @inspect share
    assert share["strict", 0.01] == 1.0 and share["lenient", 0.01] < 0.2 and share["lenient", 0.5] > 0.95
    text("""
        The strict checker, which misses 30% of right answers, only slows learning. The lenient one, which lets 5% of wrong
        ones pass, is fine for a model that is right half of the time; for one that is right in 1% of cases,
        {wrong:.0%} of what is rewarded is wrong, and the policy will learn to make *those*. When in doubt, be strict.
    """, wrong=1 - share["lenient", 0.01])  # fmt: skip
    quiz("A policy that writes programs is rewarded if all of three fixed tests pass. Which error does the checker make, and "
         "which one will grow during training?", "It accepts wrong programs. Printing the three expected outputs passes as "
         "well, and is easier to find than the algorithm: the error rate is not fixed, the policy looks for it. Hidden and "
         "varying tests help.")  # fmt: skip


def right_given_reward(p, accepts_wrong, refuses_right):
    return p * (1 - refuses_right) / (p * (1 - refuses_right) + (1 - p) * accepts_wrong)


def variants_of_dpo():
    text("## Before reinforcement: pairs from the checker, and variants of DPO")
    text(r"""
        Sample, check, pair a right with a wrong response, use DPO: cheap and often a good first step. With
        $h = \log \pi - \log \pi_{ref}$ and margin $m = h_w - h_l$:

        | name | loss | idea |
        |---|---|---|
        | DPO | $-\log \sigma(\beta m)$ | Bradley-Terry |
        | IPO {azar} | $(m - \frac{1}{2\beta})^2$ | the margin has an end |
        | length-normalised {lambert} | DPO with $h / \lvert y \rvert$ | long responses have larger sums |
        | SimPO {meng} | $-\log \sigma(\beta (\bar\ell_w - \bar\ell_l) - \gamma)$ | mean log-probs $\bar\ell$, no reference |
    """, azar=AZAR, lambert=LAMBERT, meng=MENG)  # fmt: skip
    margins = torch.linspace(-4, 12, 65, dtype=torch.float64)
    zero = torch.zeros_like(margins)
    losses = {"DPO": dpo_loss(margins, zero, 0.1), "IPO / 25": dpo_loss(margins, zero, 0.1, "ipo") / 25}  # @stepover
    plot(plot_overlaid_curves({name: list(zip(margins.tolist(), loss.tolist(), strict=True)) for name, loss in losses.items()},
                              xlabel="margin", ylabel="loss"),
         alt="The DPO loss falls for ever with the margin; that of IPO is least at five and rises again.")  # fmt: skip
    lowest = margins[losses["IPO / 25"].argmin()].item()  # @inspect lowest
    assert lowest == 5.0 and (losses["DPO"].diff() < 0).all()
    text("""
        Where every pair is always judged the same way, as by a checker, DPO pushes the margin toward infinity; IPO stops at
        $1/(2\\beta) = {lowest:.0f}$. **Trap:** pairs become stale. They are samples of yesterday's policy, and the errors of
        today's are not among them. That is the case for learning *online*.
    """, lowest=lowest)  # fmt: skip


def from_ppo_to_grpo():
    text("## From PPO to GRPO")
    text(r"""
        PPO in practice is a page of details: a value model as large as the policy, its warm-up, $\lambda$ and $\gamma$,
        whitening, clipped value loss, a divergence per token inside the reward, several epochs. For rewards at the end of a
        response the value model is the weak part: it must guess from half a proof whether it will succeed. GRPO {shao} asks
        the policy itself, by sampling a **group** of $G$ responses:

        $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + \epsilon}, \qquad
        L = -\frac{1}{G} \sum_i \frac{1}{|y_i|} \sum_t \min\big( w_{it} A_i,\, \mathrm{clip}(w_{it}) A_i \big) .$$
    """, shao=SHAO)  # fmt: skip
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])  # two questions, four responses each
    advantages, facts = compute_group_normalized_rewards(rewards, 4)  # @inspect advantages facts @stepover
    assert (advantages[4:] == 0).all() and advantages[0] > 1 and facts["zero_variance_groups"] == 0.5
    text("""
        The one right answer among four is praised with {high:.1f}, each wrong one blamed a little. The second question, always
        right, teaches nothing. What the successors changed is a table in our library:
    """, high=advantages[0])  # fmt: skip
    methods = {name: METHODS[name] for name in ("grpo", "dr_grpo", "dapo", "rloo")}  # @inspect methods
    assert methods["dr_grpo"]["advantage_normalizer"] == "none"
    exercise(
        "Train with GRPO on a task of your own.", function=GrpoTrainer, test="tests/unit/alignment/test_grpo_trainer.py"
    )


def which_questions_teach():
    text("### Which questions teach?")
    text(r"""
        A group whose rewards are all equal has no gradient. A model that is right with probability $p$ gives a group of $G$
        some spread with probability $1 - p^G - (1 - p)^G$:
    """)
    grid = np.linspace(0, 1, 101)
    curves = {f"G = {g}": [(p, 1 - p**g - (1 - p) ** g) for p in grid] for g in (2, 4, 8, 16)}
    plot(plot_overlaid_curves(curves, xlabel="probability of a right answer", ylabel="groups that teach"),
         alt="Arches over the probability of success: larger groups teach over a wider range.")  # fmt: skip
    hard = {g: 1 - 0.98**g - 0.02**g for g in (4, 16, 64)}  # @inspect hard
    drawn = np.random.default_rng(0).random((20_000, 16)) < 0.02
    measured = np.mean(drawn.any(axis=1) & ~drawn.all(axis=1))  # @inspect measured
    assert abs(measured - hard[16]) < 0.01 and hard[4] < 0.1 < 0.7 < hard[64]
    text("""
        A question solved in 2% of cases is silent in {silent:.0%} of groups of 4, but speaks in {speaks:.0%} of groups of 64.
        As training goes on, more and more questions are always solved, and the batch shrinks unseen: DAPO {dapo} samples
        until the batch is full of groups that differ. Sort questions by success first; a curriculum is most of the art.
    """, silent=1 - hard[4], speaks=hard[64], dapo=DAPO)  # fmt: skip


def division_by_deviation():
    text("## What does dividing by the deviation optimise?")
    text(r"""
        For rewards 0 and 1 with success $p$ the deviation is $\sqrt{p(1-p)}$. The gradient of one question is no longer
        $\nabla p$ but

        $$\frac{\nabla p}{\sqrt{p (1 - p)}} = \nabla\, 2 \arcsin \sqrt{p},$$

        so GRPO ascends $2 \arcsin \sqrt p$ instead of $p$: very hard and *very easy* questions count most. Dr. GRPO {liu}
        leaves the division out; dividing by the mean instead ascends $\log p$.
    """, liu=LIU)  # fmt: skip
    p = torch.tensor([0.02, 0.25, 0.5, 0.75, 0.98], dtype=torch.float64, requires_grad=True)
    (weight,) = torch.autograd.grad((2 * torch.asin(p.sqrt())).sum(), p)  # @inspect weight
    formula = 1 / (p * (1 - p)).sqrt()  # @inspect formula
    assert torch.allclose(weight, formula)
    sampled = [sampled_weight(q, "std") for q in p.tolist()]  # @inspect sampled @stepover
    plain = [sampled_weight(q, "none") for q in p.tolist()]  # @inspect plain @stepover
    assert np.allclose(sampled, weight.detach().numpy(), rtol=0.12) and np.allclose(plain, 1, rtol=0.12)
    text("""
        The formula and the library's advantages for large groups agree: a question with $p = 0.98$ weighs {easy:.1f}, one with
        $p = 0.5$ only {middle:.1f}. Without the division all weigh 1. Which objective is right is no theorem but a choice; one
        should know which one has made.
    """, easy=weight[4], middle=weight[2])  # fmt: skip
    exercise("Compute advantages with and without the division.", function=compute_group_normalized_rewards,
             test="tests/test_grpo.py")  # fmt: skip


def sampled_weight(p, normaliser, groups=40, group_size=1024):
    """E[A d log P(a) / dp] over responses that are right with probability p: the weight of a question's gradient."""
    right = torch.rand(groups * group_size, generator=torch.Generator().manual_seed(0)) < p
    advantages, _ = compute_group_normalized_rewards(right.float(), group_size, "mean", 1e-6, normaliser)
    return float((advantages * torch.where(right, 1 / p, -1 / (1 - p))).mean())


def division_by_length():
    text("## What does dividing by the length do?")
    text(r"""
        GRPO takes the mean over each response's tokens. A wrong response of 10 tokens is blamed with $A/10$ per token, one of
        1000 with $A/1000$: *if you are wrong, be long*. Let a response go on with probability $c = \sigma(\theta)$ after each
        token, so that its length $n$ is geometric, with $\partial_\theta \sum_t \log \pi = (n - 1)(1 - c) - c = n (1 - c) - 1$.
        The expected update of a response with advantage $A$ is, summed and divided by a constant, or by $n$:

        $$A\, E[n (1 - c) - 1] = 0, \qquad A\, E\Big[ (1 - c) - \frac1n \Big] = A \Big( (1 - c) + \frac{1 - c}{c} \ln (1 - c) \Big).$$

        The last bracket is negative, for $E[1/n] > 1/E[n]$: wrong responses ($A < 0$) grow and right ones shrink, although length
        earns nothing.
    """)
    c = 0.9
    bracket = (1 - c) + (1 - c) / c * math.log(1 - c)  # @inspect bracket
    lengths = np.random.default_rng(0).geometric(1 - c, 200_000)
    sampled = np.mean((1 - c) - 1 / lengths)  # @inspect sampled
    assert abs(sampled - bracket) < 0.003 and bracket < 0
    text(
        "Now with the library's losses. Right and wrong responses (30 : 70) have a parameter each; length earns nothing:"
    )
    runs = {name: length_drift(name) for name in ("grpo", "dr_grpo")}
    curves = {f"{name}, {kind}": list(enumerate(curve)) for name, run in runs.items() for kind, curve in run.items()}
    plot(plot_overlaid_curves(curves, xlabel="step", ylabel="expected length"),
         alt="Under GRPO wrong responses grow and right ones shrink; under Dr. GRPO both stay at ten.")  # fmt: skip
    final = {name: {kind: curve[-1] for kind, curve in run.items()} for name, run in runs.items()}  # @inspect final
    assert final["grpo"]["wrong"] > 16 and final["grpo"]["right"] < 8
    assert all(6 < length < 15 for length in final["dr_grpo"].values())
    text("""
        All begin at 10 tokens. After 150 steps GRPO's wrong responses have {wrong:.0f}, its right ones {right:.0f}; with a
        constant, {w:.0f} and {r:.0f}. In published curves, lengths that rise during training were read as *thinking more*;
        a part of the rise is this {liu}.
    """, wrong=final["grpo"]["wrong"], right=final["grpo"]["right"], w=final["dr_grpo"]["wrong"],
         r=final["dr_grpo"]["right"], liu=LIU)  # fmt: skip
    quiz("DAPO divides the sum over all tokens of all responses by their number. Which bias is left?",
         "None between the responses: every token weighs the same. But the number of tokens is random and differs "
         "between batches, so batches with long responses take smaller steps per response.")  # fmt: skip
    exercise("Aggregate the loss in both ways.", function=aggregate_loss_across_microbatch, test="tests/test_grpo.py")


def length_drift(method, steps=150, groups=16, group_size=8, longest=120):  # @inspect method
    generator = torch.Generator().manual_seed(0)
    theta = torch.tensor([math.log(9.0), math.log(9.0)], requires_grad=True)  # c = 0.9 for wrong and for right
    normaliser = METHODS[method]["advantage_normalizer"]
    curves = {"wrong": [10.0], "right": [10.0]}
    places = torch.arange(longest)
    for _ in range(steps):  # @every 50
        right = torch.rand(groups * group_size, generator=generator) < 0.3
        c = torch.sigmoid(theta)[right.long()]
        uniform = torch.rand(len(right), generator=generator)
        lengths = (torch.log(uniform) / torch.log(c.detach())).floor().long().clamp(
            max=longest - 1
        ) + 1  # @inspect lengths
        ends = places == lengths[:, None] - 1
        log_probs = torch.where(ends, torch.log(1 - c)[:, None], torch.log(c)[:, None])
        advantages, _ = compute_group_normalized_rewards(right.float(), group_size, "mean", 1e-6, normaliser)
        losses, _ = compute_policy_gradient_loss(advantages, log_probs)
        how = METHODS[method]["loss_normalization"]
        loss = aggregate_loss_across_microbatch(losses, places < lengths[:, None], how, 10.0 * len(right))
        (gradient,) = torch.autograd.grad(loss, theta)  # @inspect gradient
        theta.data -= 0.1 * gradient  # @inspect theta
        for kind, number in zip(curves, theta.tolist(), strict=True):
            curves[kind].append(1 + math.exp(number))
    return curves


def clipping_and_entropy():
    text("## Clipping and exploration")
    text(r"""
        A clip to $[1 - \epsilon, 1 + \epsilon]$ bounds the *ratio*, so a rare token may gain little in one round and a common
        one all it wants. How far can each go with $\epsilon = 0.2$, and with DAPO's upper end of 0.28?
    """)
    room = {p: (min(1.0, p * 1.2), min(1.0, p * 1.28)) for p in (0.01, 0.2, 0.9)}  # @inspect room
    rounds = {high: math.ceil(math.log(0.5 / 0.01) / math.log(1 + high)) for high in (0.2, 0.28)}  # @inspect rounds
    assert rounds == {0.2: 22, 0.28: 16}
    text("""
        From 1% to 50% a token needs at least {low} rounds, with the wider end {high}. Without such care the entropy of the policy
        falls within some hundred steps, all responses of a group become alike, and learning ends not because the task is
        solved but because nothing new is tried.
    """, low=rounds[0.2], high=rounds[0.28])  # fmt: skip
    text("Does entropy fall even when the reward says *nothing*? Three answers, rewards by coin, 200 small policies:")
    entropy, mean = coin_rewards()  # @inspect entropy mean
    assert 0.3 < mean[-1] < mean[0] and entropy[-1] < entropy[0] - 0.3
    text("""
        The expected step of the logits is zero, so no answer is favoured: over all policies the mean probability of the first
        goes from {before:.2f} to {after:.2f}, a little nearer to a third. But each single policy walks at random and, once near
        a corner, hardly comes back: mean entropy falls from {high:.2f} to {low:.2f} nats. Noise alone makes a policy sure of
        itself.
    """, before=mean[0], after=mean[-1], high=entropy[0], low=entropy[-1])  # fmt: skip


def coin_rewards(policies=200, steps=200, group=8, rate=2.0):
    """Mean entropy and mean probability of the first answer, before and after, with rewards that are coins."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(policies, 1)
    entropies, means = [], []
    for step in range(steps + 1):  # @inspect step @every 100
        p = torch.softmax(logits, 1)  # @inspect p
        if step in (0, steps):
            entropies.append(-(p * p.log()).sum(dim=1).mean().item())
            means.append(p[:, 0].mean().item())
        drawn = torch.multinomial(p, group, True, generator=generator)
        coins = torch.randint(0, 2, (policies * group,), generator=generator).float()
        advantages, _ = compute_group_normalized_rewards(coins, group, "mean", 1e-6, "none")
        score = torch.nn.functional.one_hot(drawn, 3) - p[:, None]  # grad log pi with respect to the logits
        logits = logits + rate * (advantages.view(policies, group, 1) * score).mean(dim=1)
    return entropies, means


def controls():
    text("## Is it the reward? Controls")
    text("""
        Accuracy rose: because of the reward? Published models of one family improved on mathematics with *random* rewards, or
        with rewards for wrong answers {spurious}, while others did not. Training made an ability come out that was there, format
        included. So every claim needs

        - the same run with a **coin** as reward (`--random-reward` in our command),
        - **SFT** on as many right samples of the model's own,
        - held-out questions that cannot have been in pre-training,
        - an interval: of 200 questions, 7 more or less are one standard deviation.
    """, spurious=SPURIOUS)  # fmt: skip
    deviation = math.sqrt(0.5 * 0.5 / 200)  # @inspect deviation
    assert 0.035 < deviation < 0.036
    text("""
        With 200 questions and an accuracy of a half, one standard deviation is {d:.1%}. AIME has 30 questions: {aime:.0%}. Hence
        averages over many samples, and paired tests.
    """, d=deviation, aime=math.sqrt(0.25 / 30))  # fmt: skip


def sharpening():
    text("### New abilities, or sharper ones?")
    text(r"""
        **pass@k** is the probability that one of $k$ samples is right, estimated without bias {chen} from $c$ right ones of
        $n$ by $1 - \binom{n-c}{k} / \binom{n}{k}$. Two made-up models on ten questions, 128 samples each:
    """, chen=CHEN)  # fmt: skip
    right = {"base": [25] * 10, "after RL": [122] * 6 + [0] * 4}
    curves = {name: [(k, np.mean([pass_at_k(128, c, k) for c in counts])) for k in (1, 2, 4, 8, 16, 32, 64)]
              for name, counts in right.items()}  # @stepover  # fmt: skip
    plot(plot_values(["1", "2", "4", "8", "16", "32", "64"], {name: [y for _, y in curve] for name, curve in curves.items()},
                     ylabel="pass@k", xlabel="k"),
         alt="Bars: after RL pass@1 is higher, but the base model overtakes at larger k and reaches one.")  # fmt: skip
    ends = {name: (round(curve[0][1], 2), round(curve[-1][1], 2)) for name, curve in curves.items()}  # @inspect ends
    assert ends["after RL"][0] > 2 * ends["base"][0] and ends["base"][1] > ends["after RL"][1]
    text("""
        The second is better at one sample ({rl:.2f} against {base:.2f}) and worse at 64: it has given up on four questions.
        Such crossings have been found in real models {yue}. An unbiased estimate matters: $1 - (1 - c/n)^k$ is too low.
    """, rl=ends["after RL"][0], base=ends["base"][0], yue=YUE)  # fmt: skip
    plug_in = 1 - (1 - 1 / 8) ** 4  # @inspect plug_in
    unbiased = pass_at_k(8, 1, 4)  # @inspect unbiased @stepover
    assert math.isclose(unbiased, 0.5) and plug_in < unbiased
    quiz("One of 8 samples is right. Why is $1 - (1 - 1/8)^4$ too low on average?",
         "The function $1 - (1 - x)^k$ is concave, so by Jensen its mean over the noise of $c/n$ lies below its value at the "
         "mean.")  # fmt: skip
    exercise(
        "Estimate pass@k without bias.", function=pass_at_k, test="tests/unit/alignment/test_alignment_evaluation.py"
    )


# model, reference, what it began from, and what is worth remembering of the recipe, as published
RECIPES = [
    ("R1-Zero", "a base model", "GRPO with rules for answer and form, no SFT: AIME 2024 from 15.6% to 71.0%; mixes languages"),
    ("R1", "R1-Zero's findings", "SFT on few long solutions, RL, SFT on 800,000 samples, RL for all tasks; small models by SFT on it"),
    ("Kimi k1.5", "SFT with long solutions", "no value model, no tree search; a reward for brevity; long models teach short ones"),
    ("Qwen3", "SFT with long solutions", "RL on 3995 questions; thinking can be switched off; AIME 2024 from 70.1 to 85.1 in 170 steps"),
]  # fmt: skip


def recipes():
    text("## Published recipes")
    rows = "\n".join(f"| {name} | {start} | {what} |" for name, start, what in RECIPES)
    text("| model | begins with | recipe |\n|---|---|---|\n{rows}", rows=rows)
    text("Sources: {r1}, {kimi}, {qwen}. What they mostly share:", r1=R1, kimi=KIMI, qwen=QWEN)
    text("""
        - Few, well chosen, checked questions: thousands, where numbers are given.
        - A cold start by SFT (all but R1-Zero), so that responses can be read and rewards are not rare.
        - Outcome rewards. Rewards for single steps and tree search are left out, R1 after having tried them.
        - Distillation for small models: imitating a strong one beats reinforcement on a weak one.
    """)
    note("Numbers are as the reports give them; none of these runs can be repeated here.")


def length_as_a_reward():
    text("### When length itself is rewarded")
    text(r"""
        Long answers cost. Kimi's rule compares the responses of a group: with $\lambda = 0.5 - \frac{n - n_{min}}{n_{max} -
        n_{min}}$ a right response gets $\lambda$ on top, a wrong one $\min(0, \lambda)$. DAPO only punishes what nears the
        limit. For four right responses and a limit of 1000 tokens:
    """)
    lengths = [200, 400, 900, 1000]
    share = [(n - min(lengths)) / (max(lengths) - min(lengths)) for n in lengths]
    bonus = [0.5 - s for s in share]  # @inspect bonus
    penalty = [overlong_penalty(n, 1000, 200) for n in lengths]  # @inspect penalty @stepover
    assert bonus == [0.5, 0.25, -0.375, -0.5] and penalty == [0.0, 0.0, 0.5, 1.0]
    text("""
        **Trap:** with the first rule from the start, the shortest way to safety is not to think. It is switched on when the
        model can solve the task, so that there is something to shorten.
    """)


def cost_of_sampling():
    text("## Where the time goes")
    text("""
        A step is sampling, checking, learning. Sampling decodes token by token and waits for the *longest* response. Lengths
        are log-normal here (median 1000, spread of a factor of 2); 256 responses decode side by side:
    """)
    lengths = np.random.default_rng(0).lognormal(math.log(1000), math.log(2), (200, 256))
    useful = (lengths.mean(axis=1) / lengths.max(axis=1)).mean()  # @inspect useful
    assert 0.1 < useful < 0.35
    text("""
        Only {useful:.0%} of the places in the batch do useful work. Remedies: refill places as they empty (continuous batching,
        lecture 10), cut very long responses and go on with them in the next round, or learn from slightly *stale* samples while
        new ones are drawn.
    """, useful=useful)  # fmt: skip
    text(r"""
        **Trap: two models that should be one.** The engine that samples and the trainer compute the same probabilities with
        other kernels and other rounding. The samples are then off-policy from the first step. Weight each token by
        $\min(\pi_{trainer} / \pi_{sampler}, C)$:
    """)
    sampler = torch.tensor([[-1.00, -2.00, -9.0]])
    trainer = torch.tensor([[-1.02, -1.97, -6.0]])
    weights = truncated_importance_weights(trainer, sampler, cap=2.0)  # @inspect weights @stepover
    assert weights[0, 2] == 2.0 and abs(weights[0, 0] - 0.98) < 0.01
    text("Two tokens hardly differ; the third, which the sampler found 20 times less likely, is held at 2.")
    text("All that this lecture turned on and off, as the settings of our trainer:")
    settings = GrpoConfig()  # @inspect settings


def summary():
    text("## What to take home")
    text(r"""
        - A checker is a reward that does not bend, as far as it is right. Strict errors slow, lenient ones mislead.
        - Only groups that differ teach: choose questions between never and always.
        - Dividing by the deviation ascends $2 \arcsin \sqrt p$; dividing by the length makes wrong answers long.
        - Noise alone lowers entropy. Run the coin, count pass@k, give intervals.
        - Most of the time is sampling.
    """)
    text("*Next: the policy gradient in detail, and models that see.*")


if __name__ == "__main__":
    main()

"""The policy gradient in detail, and models that see.

Lecture 17 of the course: the gradient of an expected reward, baselines and advantages, rewards that can be cheated,
importance ratios and clipping, estimators of the KL divergence, training a policy that sorts; then how pictures become
tokens. It prepares assignment 5, problems `compute_group_normalized_rewards` and `compute_policy_gradient_loss`. Left
out: systems for sampling at scale (lectures 10 and 16). This is the last lecture.
"""

import math
from itertools import product

import numpy as np
import torch

from cs336_alignment.advantages import compute_group_normalized_rewards
from cs336_alignment.grpo_step import grpo_train_step
from cs336_alignment.kl_divergence import kl_divergence
from cs336_alignment.policy_gradient import compute_policy_gradient_loss, importance_ratio, reinforce_loss
from cs336_basics.model import scaled_dot_product_attention
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.plots import plot_overlaid_curves
from lectures.content import Reference, exercise, plot, quiz, text


def cite(title, authors, year, arxiv=""):  # @stepover @hide
    url = f"https://arxiv.org/abs/{arxiv}" if arxiv else None  # @hide
    return Reference(title=title, authors=authors.split(", "), date=str(year), url=url)  # @hide


WILLIAMS = cite("Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
                "Ronald Williams", 1992)  # fmt: skip
PPO = cite("Proximal Policy Optimization Algorithms", "John Schulman, Filip Wolski", 2017, "1707.06347")
KL = Reference(title="Approximating KL Divergence", authors=["John Schulman"], date="2020",
               url="http://joschu.net/blog/kl-approx.html")  # fmt: skip
GRPO = cite("DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
            "Zhihong Shao, Peiyi Wang", 2024, "2402.03300")  # fmt: skip
RLOO = cite("Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
            "Arash Ahmadian, Chris Cremer", 2024, "2402.14740")  # fmt: skip
VIT = cite("An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
           "Alexey Dosovitskiy, Lucas Beyer", 2021, "2010.11929")  # fmt: skip
CLIP = cite("Learning Transferable Visual Models From Natural Language Supervision",
            "Alec Radford, Jong Wook Kim", 2021, "2103.00020")  # fmt: skip
SIGLIP = cite("Sigmoid Loss for Language Image Pre-Training", "Xiaohua Zhai, Basil Mustafa", 2023, "2303.15343")
LLAVA = cite("Visual Instruction Tuning", "Haotian Liu, Chunyuan Li", 2023, "2304.08485")
QWEN2VL = cite("Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution",
               "Peng Wang, Shuai Bai", 2024, "2409.12191")  # fmt: skip
DEEPSTACK = cite("DeepStack: Deeply Stacking Visual Tokens is Surprisingly Simple and Effective for LMMs",
                 "Lingchen Meng, Jianwei Yang", 2024, "2406.04334")  # fmt: skip
VQVAE = cite("Neural Discrete Representation Learning", "Aaron van den Oord, Oriol Vinyals", 2017, "1711.00937")
CHAMELEON = Reference(title="Chameleon: Mixed-Modal Early-Fusion Foundation Models", organization="Chameleon Team",
                      date="2024", url="https://arxiv.org/abs/2405.09818")  # fmt: skip

V = 4  # the sorting policy knows the numbers 0, 1, 2, 3
PROMPTS = torch.tensor([[1, 0, 2], [3, 1, 0], [0, 3, 2], [2, 3, 1]])


def main():
    text("# The policy gradient in detail")
    text("*Lecture 17: from the expectation to the update, and models that see*")
    the_setting()
    the_gradient()
    baselines()
    advantages()
    two_rewards()
    four_deltas()
    ratios()
    clipping()
    divergence()
    training()
    patches()
    contrast()
    tokens_in_language_models()
    discrete_images()
    summary()


def the_setting():
    text("## A language model as an agent")
    text(r"""
        | reinforcement learning | language model |
        |---|---|
        | state $s$ | the prompt and the tokens written so far |
        | action $a$ | the next token |
        | policy $\pi_\theta(a \mid s)$ | the model |
        | transition | append the token: known and deterministic |
        | reward $R(s, a)$ | judged at the end of the response: an *outcome reward* |

        Because transitions are known, one may sample as many responses to a prompt as one likes, which robots cannot.
        And because the state is only text, any state can be visited again. What is hard is to *find* responses that
        earn anything: with a reward of 0 everywhere there is nothing to learn from.
    """)
    text(r"""
        From here on $s$ is a prompt and $a$ a *whole response*: with an outcome reward and no discount nothing is lost.
        The aim is the expected reward $J(\theta) = E_{s}\, E_{a \sim \pi_\theta(\cdot \mid s)}\, R(s, a)$.
    """)
    chance = {length: 4.0**-length for length in (3, 10, 100)}  # @inspect chance
    text("""
        A uniform policy over 4 tokens writes one given response of 3 tokens with probability {short:.3f}, one of 100
        with {long:.0e}. Reinforcement learning begins where a trained model already succeeds now and then.
    """, short=chance[3], long=chance[100])  # fmt: skip


def the_gradient():
    text("## The gradient of an expectation")
    text(r"""
        The parameters are in the distribution that is sampled from, not in $R$. The **log-derivative trick** moves the
        gradient inside {williams}:

        $$\nabla \sum_a \pi_\theta(a) R(a) = \sum_a \pi_\theta(a) \frac{\nabla \pi_\theta(a)}{\pi_\theta(a)} R(a)
        = E_{a \sim \pi_\theta}\big[ R(a)\, \nabla \log \pi_\theta(a) \big].$$

        So: sample, raise the log-probability of each sample in proportion to its reward. It is supervised learning on
        one's own answers, weighted. With three responses everything can be computed exactly:
    """, williams=WILLIAMS)  # fmt: skip
    logits = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    probabilities = torch.softmax(logits, 0)  # @inspect probabilities
    (exact,) = torch.autograd.grad((probabilities * rewards).sum(), logits)  # @inspect exact
    drawn = torch.multinomial(probabilities.detach(), 20_000, True, generator=torch.Generator().manual_seed(0))
    log_probs = torch.log_softmax(logits, 0)[drawn]
    loss = reinforce_loss(rewards[drawn][:, None], log_probs[:, None]).mean()  # @inspect loss @stepover
    (sampled,) = torch.autograd.grad(-loss, logits)  # @inspect sampled
    assert torch.allclose(exact, sampled, atol=0.03)
    text("""
        20,000 samples come close to the truth. **Trap:** the *value* of the loss means nothing. It is built so that its
        gradient is right; it can rise while the policy improves. Watch the reward.
    """)
    exercise("Write the loss per token.", function=compute_policy_gradient_loss, test="tests/test_grpo.py")


def baselines():
    text("## Baselines: the same gradient with less noise")
    text(r"""
        Two prompts, two responses each, with the rewards below. In $s_1$ everything pays, so a sample of the *worse*
        response, with reward 9, is pushed up harder than the best response in $s_2$ with 2.
    """)
    rewards = torch.tensor([[11.0, 9.0], [0.0, 2.0]])  # @inspect rewards
    naive = rewards.std()  # @inspect naive
    baseline = rewards.mean(dim=1, keepdim=True)  # @inspect baseline
    centred = (rewards - baseline).std()  # @inspect centred
    assert round(naive.item(), 2) == 5.32 and round(centred.item(), 2) == 1.15
    text(r"""
        Subtract from each reward what is usual *in its state*. The standard deviation of what multiplies the gradient
        falls from {naive:.2f} to {centred:.2f}, its variance from {v1:.1f} to {v2:.1f}. And the expected gradient is
        the same for every $b(s)$ that does not depend on the response, because

        $$E_{a}\big[ b(s) \nabla \log \pi(a \mid s) \big] = b(s) \sum_a \nabla \pi(a \mid s) = b(s)\, \nabla 1 = 0.$$
    """, naive=naive, centred=centred, v1=naive**2, v2=centred**2)  # fmt: skip
    text("Which baseline is best? Here is the variance of the whole estimator, computed exactly for a softmax policy:")
    grid = [b / 4 for b in range(0, 49)]
    curve = [(b, estimator_variance(rewards[0], b)) for b in grid]  # @stepover
    plot(plot_overlaid_curves({"prompt with rewards 11 and 9": curve}, xlabel="baseline", ylabel="variance of gradient"),
         alt="A parabola: the variance of the gradient estimate is least for a baseline of ten.")  # fmt: skip
    best = min(curve, key=lambda point: point[1])  # @inspect best
    assert best == (10.0, 0.0)
    text(r"""
        At $b = 10$ it vanishes: with two equally likely responses, one sample tells all. In general the best is
        $b^* = E[R\, \lVert \nabla \log \pi \rVert^2] \,/\, E[\lVert \nabla \log \pi \rVert^2]$, and $E[R \mid s]$ is near.
    """)
    quiz("A group's rewards are 1, 1, 1, 1. What is the gradient with the mean as baseline, what without?",
         "With: zero, all are as good as usual. Without: each sampled response is pushed up, which cancels only on "
         "average over many groups. It is pure noise.")  # fmt: skip


def estimator_variance(rewards, baseline):
    """Trace of the covariance of (R - b) grad log pi, for a uniform softmax policy."""
    scores = torch.eye(len(rewards)) - 1 / len(rewards)  # grad log pi(a) with respect to the logits, a row per a
    samples = (rewards - baseline)[:, None] * scores
    return (samples - samples.mean(dim=0)).square().sum(dim=1).mean().item()


def advantages():
    text("## Advantages, and the group as a baseline")
    text(r"""
        $V(s) = E_{a}[R(s, a)]$ is the value of a state, $Q(s, a)$ that of a response there, $A = Q - V$ its
        **advantage**: how much better than usual. PPO {ppo} trains a second network for $V$. GRPO {grpo} samples $G$
        responses to each prompt and takes their mean. **Trap:** that mean contains the response itself, so it is not
        independent of it. What comes of it?

        $$r_i - \frac{1}{G}\sum_j r_j = \frac{G-1}{G}\Big( r_i - \frac{1}{G-1}\sum_{j \ne i} r_j \Big)$$

        The bracket leaves $r_i$ out and is unbiased (RLOO {rloo}); the group mean only shrinks it by a constant.
    """, ppo=PPO, grpo=GRPO, rloo=RLOO)  # fmt: skip
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.0, 2.0, 2.0, 1.0, 3.0])
    mean, _ = compute_group_normalized_rewards(rewards, 4, "mean", 1e-6, "none")  # @inspect mean @stepover
    others, _ = compute_group_normalized_rewards(rewards, 4, "leave_one_out", 1e-6, "none")  # @inspect others @stepover
    assert torch.allclose(mean, others * 3 / 4)
    exercise("Compute advantages.", function=compute_group_normalized_rewards, test="tests/test_grpo.py")


def positions_reward(prompts, responses):
    """How many places hold the right number."""
    return (responses == prompts.sort(dim=-1).values).sum(dim=-1).float()


def inclusion_order_reward(prompts, responses):
    """How many numbers of the prompt occur in the response, plus how many neighbours are in order."""
    included = (prompts[..., :, None] == responses[..., None, :]).any(dim=-1).sum(dim=-1)
    return (included + (responses[..., 1:] >= responses[..., :-1]).sum(dim=-1)).float()


def two_rewards():
    text("## A task, and two rewards for it")
    text("Sort three numbers. One reward counts right places; the other gives partial credit, at best 3 + 2 = 5:")
    prompt = torch.tensor([1, 0, 2])
    answers = torch.tensor([[0, 1, 2], [1, 0, 2], [0, 0, 2], [2, 1, 0], [3, 3, 3]])
    positions = positions_reward(prompt, answers)  # @inspect positions
    partial = inclusion_order_reward(prompt, answers)  # @inspect partial
    assert positions.tolist() == [3, 1, 2, 1, 0] and partial.tolist() == [5, 4, 4, 3, 2]
    text("""
        Partial credit gives a signal early: even 3, 3, 3 earns 2. But look: copying the prompt unsorted earns 4, and
        so does 0, 0, 2. Count all 64 responses:
    """)
    everything = torch.tensor(list(product(range(V), repeat=3)))
    counts = torch.bincount(inclusion_order_reward(prompt, everything).int(), minlength=6)  # @inspect counts @stepover
    assert counts[5] == 1 and counts[4] > 5
    text("""
        One response earns 5, but {four} earn 4: broad plateaus beside a narrow peak. And where numbers repeat, the
        reward can be *cheated*. The prompt 1, 1, 2 answered with 1, 2, 3:
    """, four=counts[4])  # fmt: skip
    cheat = inclusion_order_reward(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 3]))  # @inspect cheat @stepover
    assert cheat == 5
    text("Full reward for a wrong answer: each 1 of the prompt is found in the same 1. An optimizer finds such gaps.")


def four_deltas():
    text("## What multiplies the gradient")
    text("From the rewards of a group, four choices of the weight $\\delta_i$ of response $i$:")
    rewards = torch.tensor([4.0, 3.0, 3.0, 2.0, 4.0])  # @inspect rewards
    deltas = {
        name: delta_of(name, rewards, 5) for name in ("raw", "centred", "normalised", "max")
    }  # @inspect deltas @stepover
    assert abs(deltas["centred"].sum()) < 1e-6 and abs(deltas["normalised"].std() - 1) < 1e-4
    text("""
        - **raw**: everything is pushed up, the better the more. Right on average, noisy.
        - **centred**: below the mean is pushed down. Groups of equal rewards teach nothing.
        - **normalised**: divided by the group's standard deviation, as in GRPO: the same size for every group, so
          a group that differs by a hair counts as much as one that differs by a mile.
        - **max**: only the best responses count, to keep the policy from settling for partial credit.
    """)


def delta_of(name, rewards, group_size):
    if name == "max":
        best = rewards.view(-1, group_size).amax(dim=1).repeat_interleave(group_size)
        return torch.where(rewards == best, rewards, 0.0)
    baseline = "none" if name == "raw" else "mean"
    return compute_group_normalized_rewards(
        rewards, group_size, baseline, 1e-6, "std" if name == "normalised" else "none"
    )[0]


def ratios():
    text("## Several steps on the same samples")
    text(r"""
        Sampling is dear, so one takes several steps with each batch. After the first step the samples come from an
        *old* policy. Importance weights correct for that:

        $$E_{a \sim \pi_{old}}\Big[ \frac{\pi_\theta(a)}{\pi_{old}(a)} A(a) \Big] = E_{a \sim \pi_\theta}[A(a)] .$$

        **Trap 1:** models give *log*-probabilities. The ratio is the exponential of a difference, not a ratio of logs:
    """)
    new, old = torch.tensor([0.5, 0.1]).log()[None], torch.tensor([0.25, 0.2]).log()[None]
    right = importance_ratio(new, old)  # @inspect right @stepover
    wrong = new / old  # @inspect wrong
    assert torch.allclose(right, torch.tensor([[2.0, 0.5]])) and (wrong[0, 0] < 1) and (wrong[0, 1] > 1)
    text("The first token became twice as likely, the second half. The ratio of logs says the opposite of both.")
    text("**Trap 2:** the old probability is a constant. If the gradient flows into it as well, nothing is left:")
    gradients = []  # @inspect gradients
    for stop in (False, True):  # @inspect stop
        w = torch.tensor(2.0, requires_grad=True)
        p, p_old = torch.sigmoid(w), torch.sigmoid(w)
        ratio = p / (p_old.detach() if stop else p_old)  # @inspect ratio
        ratio.backward()
        gradients.append(round(w.grad.item(), 3))
    assert gradients == [0.0, 0.119]
    text(r"""
        The ratio is 1 both times, its gradient 0 or $\nabla p / p = 1 - p = {g:.3f}$: the gradient of $\log p$. So the
        first step on fresh samples is plain REINFORCE, whatever the method.
    """, g=gradients[1])  # fmt: skip


def clipping():
    text("### Clipping: a leash for the ratio")
    text(r"""
        Far from the old policy the weights explode, and the samples say little. PPO {ppo} maximises

        $$\min\big( w A,\; \mathrm{clip}(w, 1 - \epsilon, 1 + \epsilon)\, A \big), \qquad w = \pi_\theta / \pi_{old} .$$

        The minimum is pessimistic: it stops the gradient where the step has already gone far *in the direction that
        $A$ wants*, and never where it must come back.
    """, ppo=PPO)  # fmt: skip
    active = {}  # @inspect active
    for ratio, advantage in product([0.5, 1.0, 1.5], [1.0, -1.0]):
        log_prob = torch.tensor([[math.log(ratio)]], requires_grad=True)
        loss, _ = compute_policy_gradient_loss(
            torch.tensor([advantage]), log_prob, "grpo", torch.zeros(1, 1), 0.2
        )  # @stepover
        active[ratio, advantage] = torch.autograd.grad(loss.sum(), log_prob)[0].item() != 0
    assert [key for key, value in active.items() if not value] == [(0.5, -1.0), (1.5, 1.0)]
    text("""
        Of six cases two are silent: a good response that is already 1.5 times as likely, a bad one that is already
        half as likely. **Trap:** with one step per batch the ratio is 1 and nothing is ever clipped.
    """)
    exercise("Do a whole training step of GRPO.", function=grpo_train_step, test="tests/test_grpo.py")


def divergence():
    text("## How far from the reference?")
    text(r"""
        A penalty $\beta\, \mathrm{KL}(\pi \,\|\, \pi_{ref})$ keeps the policy near a reference. The sum over all
        responses is out of reach; three estimators from a sample $a \sim \pi$, with $q = \pi_{ref}(a) / \pi(a)$ {kl}:

        $$k_1 = -\log q, \qquad k_2 = \tfrac12 (\log q)^2, \qquad k_3 = q - 1 - \log q .$$

        As $E_\pi[q] = 1$, $k_3$ has the mean of $k_1$; as $\log q \le q - 1$, it is never negative. By enumeration:
    """, kl=KL)  # fmt: skip
    logits = torch.tensor([1.0, 0.5, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    log_p = torch.log_softmax(logits, 0)
    log_ref = torch.log_softmax(torch.tensor([0.8, 0.7, -0.2, -0.6], dtype=torch.float64), 0)
    truth = (log_p.exp() * (log_p - log_ref)).sum()  # @inspect truth
    (true_gradient,) = torch.autograd.grad(truth, logits, retain_graph=True)  # @inspect true_gradient
    found, gradients = {}, {}  # @inspect found
    for name in ("k1", "k2", "k3"):  # @inspect name
        values = kl_divergence(log_p, log_ref, name)  # @inspect values @stepover
        p = log_p.exp().detach()
        mean = (p * values).sum()
        deviation = (p * (values - mean) ** 2).sum().sqrt()
        (gradients[name],) = torch.autograd.grad(mean, logits, retain_graph=True)
        error = (gradients[name] - true_gradient).abs().max()  # @inspect error
        found[name] = (mean.item() / truth.item(), deviation.item(), error.item())
    assert abs(found["k1"][0] - 1) < 1e-9 and abs(found["k3"][0] - 1) < 1e-9 and abs(found["k2"][0] - 1) > 1e-3
    assert found["k3"][1] < found["k1"][1] / 5 and found["k2"][2] < 1e-9
    assert gradients["k1"].abs().max() < 1e-9
    reversed_divergence = (log_ref.exp() * (log_ref - log_p)).sum()
    (other_gradient,) = torch.autograd.grad(reversed_divergence, logits)  # @inspect other_gradient
    assert torch.allclose(gradients["k3"], other_gradient)
    text("""
        Mean over truth: 1 for $k_1$ and $k_3$, {k2:.3f} for $k_2$. Standard deviation: {d1:.3f} for $k_1$, {d3:.3f} for
        $k_3$. **Trap:** a good value is not a good gradient. Differentiated under fixed samples, $k_1$ gives the score
        function, zero on average; $k_3$ gives that of the *reversed* divergence; only $k_2$ gives the true gradient.
    """, k2=found["k2"][0], d1=found["k1"][1], d3=found["k3"][1])  # fmt: skip
    exercise("Add the penalty to a training step.", function=kl_divergence,
             test="tests/unit/alignment/test_policy_gradient.py")  # fmt: skip


def training():
    text("## Training a policy that sorts")
    text("""
        One hidden layer reads the three numbers and gives a distribution for each place of the answer; places are drawn
        independently. Four prompts, ten responses to each, 30 rounds of 5 steps, the reward of partial credit, three
        seeds each. The curves are exact expectations by enumeration, averaged over the seeds.
    """)
    runs = {name: [train_policy(name, "none", seed=seed) for seed in range(3)]
            for name in ("raw", "centred", "normalised", "max")}  # @stepover  # fmt: skip
    curves = {name: np.mean([curve for curve, _ in of_seeds], axis=0) for name, of_seeds in runs.items()}
    plot(plot_overlaid_curves({name: list(enumerate(curve)) for name, curve in curves.items()}, xlabel="round",
                              ylabel="expected reward, of 5"),
         alt="Expected reward over rounds for four weights: raw rewards stay behind the three others.")  # fmt: skip
    final = {name: (curve[9], curve[-1]) for name, curve in curves.items()}  # @inspect final
    assert final["raw"][0] < min(final["centred"][0], final["normalised"][0])
    text("""
        After 10 rounds raw rewards stand at {raw:.2f}, centred ones at {centred:.2f}, normalised at {normalised:.2f};
        after 30 at {r:.2f}, {c:.2f} and {n:.2f}.
    """, raw=final["raw"][0], centred=final["centred"][0], normalised=final["normalised"][0], r=final["raw"][1],
         c=final["centred"][1], n=final["normalised"][1])  # fmt: skip
    stuck = [
        entry for _, entries in runs["raw"] + runs["centred"] for entry in entries if entry[2] < 5
    ]  # @inspect stuck
    plateau = np.mean([reward == 4 for _, _, reward, _ in stuck])  # @inspect plateau
    median = np.median([probability for *_, probability in stuck])  # @inspect median
    assert plateau > 0.7 and median < 0.02
    text("""
        Above are prompts that are *not* sorted in the end, with the greedy answer, its reward, and the probability of
        the right answer: {plateau:.0%} sit on the plateau of reward 4, and the right answer has become so rare (median
        {median:.2%}) that ten samples hardly ever hold it. Such a **local optimum** is made by partial credit and by
        lost exploration: where no sample is better, nothing says where to go.
    """, plateau=plateau, median=median)  # fmt: skip
    text("Now the loss. With five steps per batch, do ratios and clips matter?")
    rewards = {
        name: train_policy("centred", name)[0][-1] for name in ("none", "noclip", "grpo")
    }  # @inspect rewards @stepover
    assert max(rewards.values()) - min(rewards.values()) < 0.5
    text("""
        Naive {none:.2f}, with ratios {noclip:.2f}, clipped {grpo:.2f}: on a task as small as this hardly a difference.
        One run proves nothing either way: repeat with seeds before you believe a method.
    """, none=rewards["none"], noclip=rewards["noclip"], grpo=rewards["grpo"])  # fmt: skip


def train_policy(delta, method, rounds=30, steps=5, group=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(3 * V, 24, generator=generator) / 3, torch.randn(24, 3 * V, generator=generator) / 5]
    weights = [torch.nn.Parameter(w) for w in weights]
    optimizer = AdamW(weights, lr=0.01, weight_decay=0.0)
    everything = torch.tensor(list(product(range(V), repeat=3)))
    prompts = PROMPTS.repeat_interleave(group, dim=0)
    curve = []
    for _ in range(rounds):
        with torch.no_grad():
            responses = torch.multinomial(
                log_probs_of(weights, prompts).exp().view(-1, V), 1, generator=generator
            ).view(-1, 3)
            old = log_probs_of(weights, prompts).gather(2, responses[..., None])[..., 0]
        deltas = delta_of(delta, inclusion_order_reward(prompts, responses), group)
        for _ in range(steps):
            new = log_probs_of(weights, prompts).gather(2, responses[..., None])[..., 0]
            loss, _ = compute_policy_gradient_loss(deltas, new, method, old, 0.2)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        curve.append(expected_reward(weights, everything))
    log_probs = log_probs_of(weights, PROMPTS).detach()
    answers = log_probs.argmax(dim=-1)
    rewards = inclusion_order_reward(PROMPTS, answers)
    right = log_probs.gather(2, PROMPTS.sort(dim=1).values[..., None]).sum(dim=(1, 2)).exp()
    entries = zip(PROMPTS.tolist(), answers.tolist(), rewards.tolist(), right.tolist(), strict=True)
    return curve, list(entries)


def log_probs_of(weights, prompts):
    """Log-probabilities of each number at each place, (prompts, 3, V)."""
    one_hot = torch.eye(V)[prompts].flatten(1)
    return torch.log_softmax((torch.relu(one_hot @ weights[0]) @ weights[1]).view(-1, 3, V), dim=-1)


@torch.no_grad()
def expected_reward(weights, everything):
    log_p = log_probs_of(weights, PROMPTS)
    joint = sum(log_p[:, place][:, everything[:, place]] for place in range(3)).exp()  # (prompts, responses)
    return (joint * inclusion_order_reward(PROMPTS[:, None], everything[None])).sum(dim=1).mean().item()


def patches():
    text("## Models that see: pictures become tokens")
    text("""
        A Transformer takes any sequence of vectors. The vision Transformer {vit} cuts a picture into square patches,
        flattens each and multiplies by a matrix: a *linear* embedding, as a table is for words. Four patches:
    """, vit=VIT)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(3, 4, 4, generator=generator)  # @inspect picture.shape
    cut = picture.unfold(1, 2, 2).unfold(2, 2, 2)  # @inspect cut.shape
    flat = cut.permute(1, 2, 0, 3, 4).reshape(4, 12)  # @inspect flat.shape
    embedding = torch.randn(12, 8, generator=generator)
    tokens = flat @ embedding + torch.randn(4, 8, generator=generator)  # positions @inspect tokens.shape
    seen = scaled_dot_product_attention(tokens, tokens, tokens)  # @inspect seen.shape @stepover
    assert flat.shape == (4, 12) and seen.shape == (4, 8)
    as_convolution = torch.nn.functional.conv2d(picture[None], embedding.T.reshape(8, 3, 2, 2), stride=2)
    assert torch.allclose(as_convolution[0].flatten(1).T, flat @ embedding, atol=1e-5)
    text("""
        It is the same as a convolution whose stride is its width, which is how libraries write it. Attention has no
        mask: a patch may look at every other. All the rest is the Transformer you have built.
    """)


def contrast():
    text("### Pictures and words in one space")
    text(r"""
        CLIP {clip} trains two encoders so that a picture and its caption have a large product $s_{ii}$, in a batch of
        $n$ pairs, by a **softmax** over rows and over columns. SigLIP {siglip} asks of each of the $n^2$ pairs
        separately whether they belong together ($z_{ij} = \pm 1$), a **sigmoid**:

        $$L_{softmax} = -\frac{1}{2n} \sum_i \Big( \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}} +
        \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \Big), \qquad
        L_{sigmoid} = -\frac{1}{n} \sum_{i,j} \log \sigma\big( z_{ij} (s_{ij} + b) \big).$$

        The softmax needs the whole row on one device; the sigmoid can be summed block by block. Synthetic pairs: two
        noisy linear views of the same four hidden numbers, and two matrices to be learnt.
    """, clip=CLIP, siglip=SIGLIP)  # fmt: skip
    accuracy = {
        "softmax": train_pairs(softmax_loss),
        "sigmoid": train_pairs(sigmoid_loss),
    }  # @inspect accuracy @stepover
    assert all(before < 0.1 and after > 0.7 for before, after in accuracy.values())
    text("""
        On 64 new pairs the right partner is found in {before:.0%} of cases before training, and in {a:.0%} and {b:.0%}
        after it. Why the bias $b$? At first nearly all pairs are negatives:
    """, before=accuracy["softmax"][0], a=accuracy["softmax"][1], b=accuracy["sigmoid"][1])  # fmt: skip
    zero = torch.zeros(64, 64)
    start = {b: sigmoid_loss(zero, b).item() for b in (0.0, -10.0)}  # @inspect start @stepover
    assert math.isclose(start[0.0], 64 * math.log(2), rel_tol=1e-5) and start[-10.0] < start[0.0] / 4
    text("""
        With $b = 0$ the loss begins at $n \\ln 2 = {zero:.1f}$, nearly all of it from the {share:.0%} negatives: the first
        steps only push everything apart. With $b = -10$ it begins at {low:.1f}.
    """, zero=start[0.0], low=start[-10.0], share=63 / 64)  # fmt: skip


def softmax_loss(scores, bias):
    return -(torch.log_softmax(scores, 1).diagonal() + torch.log_softmax(scores, 0).diagonal()).mean() / 2


def sigmoid_loss(scores, bias):
    signs = 2 * torch.eye(len(scores)) - 1
    return torch.logaddexp(torch.zeros(()), -signs * (scores + bias)).sum() / len(scores)


def train_pairs(loss_of, steps=150, n=64):
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(4, width, generator=generator) for width in (16, 12)]
    encoders = [torch.nn.Parameter(torch.randn(width, 8, generator=generator) / 4) for width in (16, 12)]
    bias = torch.nn.Parameter(torch.tensor(-5.0))
    optimizer = AdamW([*encoders, bias], lr=0.02, weight_decay=0.0)

    def scores():
        hidden = torch.randn(n, 4, generator=generator)
        sides = [hidden @ view + 0.2 * torch.randn(n, view.shape[1], generator=generator) for view in views]
        unit = [torch.nn.functional.normalize(side @ e, dim=1) for side, e in zip(sides, encoders, strict=True)]
        return 10 * unit[0] @ unit[1].T

    def accuracy():
        return (scores().argmax(dim=1) == torch.arange(n)).float().mean().item()

    before = accuracy()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(scores(), bias).backward()
        optimizer.step()
    return before, accuracy()


def tokens_in_language_models():
    text("### Pictures in a language model")
    text("""
        LLaVA {llava} is the simplest recipe that works: a trained vision encoder, a small network that maps its patches
        to the width of a language model, and fine-tuning on conversations about pictures. What does a picture cost?
    """, llava=LLAVA)  # fmt: skip
    fixed = (336 // 14) ** 2
    tiled = 5 * fixed  # AnyRes: four tiles of 336 x 336 and the whole picture, scaled down
    merged = (1344 // 28) * (1008 // 28)  # any size, 2 x 2 patches of 14 x 14 pixels per token
    cost = {"one 336 x 336": fixed, "AnyRes 672 x 672": tiled, "Qwen2-VL 1344 x 1008": merged}  # @inspect cost
    assert list(cost.values()) == [576, 2880, 1728]
    text("""
        At 14 pixels per patch a picture of 336 x 336 is 576 tokens, several paragraphs of text. Small print needs more
        pixels: *AnyRes* adds tiles, Qwen2-VL {qwen} takes any size and merges 2 x 2 patches. Its **M-RoPE** rotates by
        three positions, time, row and column; for text all three are equal, which is plain RoPE.
    """, qwen=QWEN2VL)  # fmt: skip
    positions = [(i, i, i) for i in range(3)]  # three words
    start = len(positions)
    positions += [(start, start + row, start + column) for row, column in product(range(2), range(3))]  # a picture
    following = max(max(p) for p in positions) + 1
    positions += [(following, following, following)]  # @inspect positions
    assert following == 6 and len(positions) == 10
    text("""
        Six picture tokens moved the text on by only 3. **DeepStack** {deepstack} adds features of several layers of the
        encoder to the hidden states of the first layers of the language model: more detail without more tokens.
    """, deepstack=DEEPSTACK)  # fmt: skip


def discrete_images():
    text("### Pictures that can be *written*")
    text(r"""
        To generate pictures token by token, they must be discrete. A **VQ-VAE** {vqvae} replaces each vector $z$ of an
        encoder by the nearest row $e_k$ of a codebook; $k$ is the token. {chameleon} trains one Transformer
        on text and such tokens. Choosing the nearest has no gradient, so it is passed *straight through*:
    """, vqvae=VQVAE, chameleon=CHAMELEON)  # fmt: skip
    z = torch.tensor([0.9, 0.2], requires_grad=True)
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    nearest = codes[(codes - z).square().sum(dim=1).argmin()]  # @inspect nearest
    quantised = z + (nearest - z).detach()  # @inspect quantised
    (quantised * torch.tensor([2.0, 3.0])).sum().backward()
    gradient = z.grad  # @inspect gradient
    assert gradient.tolist() == [2.0, 3.0]
    text("**Trap: dead codes.** A code that is never the nearest is never updated. 64 codes, 1000 points:")
    rng = np.random.default_rng(0)
    points = rng.normal(size=(1000, 4)) * 3 + 10
    use = {"codes near zero": codes_used(points, rng.normal(size=(64, 4)))}
    use["codes begin at data"] = codes_used(points, points[rng.choice(1000, 64, replace=False)])  # @inspect use
    assert use["codes near zero"][0] < 32 and use["codes begin at data"][0] == 64
    text("""
        Of codes that begin far from the data {few} of 64 are used; if they begin at data points (or dead ones are moved
        there), {all}. The perplexity of the code distribution, {low:.0f} against {high:.0f}, is what to watch.
    """, few=use["codes near zero"][0], all=use["codes begin at data"][0], low=use["codes near zero"][1],
         high=use["codes begin at data"][1])  # fmt: skip


def codes_used(points, codes, rounds=10):
    """(codes in use, perplexity of their use) after rounds of nearest code and mean."""
    for _ in range(rounds):  # @every 5
        nearest = ((points[:, None] - codes[None]) ** 2).sum(axis=2).argmin(axis=1)
        counts = np.bincount(nearest, minlength=len(codes))  # @inspect counts
        for code in np.flatnonzero(counts):  # @every 32
            codes[code] = points[nearest == code].mean(axis=0)
    share = counts[counts > 0] / len(points)
    return int((counts > 0).sum()), float(np.exp(-(share * np.log(share)).sum()))


def summary():
    text("## What to take home")
    text(r"""
        - $\nabla J = E[\,R\, \nabla \log \pi\,]$: sample, weigh, imitate yourself. The loss's value means nothing.
        - A baseline changes the noise, not the mean. The group's mean is one, for the price of more samples.
        - Ratios are exponentials of differences, against a constant. Clipping stops what has gone far enough.
        - Rewards with partial credit help to begin and hold one back later, and gaps in them are found.
        - Pictures are sequences of vectors (to read) or of codes (to write); the Transformer does not care.
    """)
    text("*You have now built a language model from its bytes to its rewards. Go and build a better one.*")


if __name__ == "__main__":
    main()

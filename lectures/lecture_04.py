"""Mixtures of experts, and what can take the place of attention.

Lecture 4 of the course: more parameters for the same FLOPs, routing, balance, capacity, communication, the DeepSeek
models; then linear attention, the delta rule and state spaces. It uses `cs336_basics/variants`. Left out: parallel
training in code (lecture 8). Read next: `lecture_05.py`.
"""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import torch

from cs336_basics.accounting import parameter_counts
from cs336_basics.kv_cache import KVCache
from cs336_basics.layers import RotaryPositionalEmbedding, SwiGLU
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import softmax
from cs336_basics.objectives.multi_token_prediction import MultiTokenPredictor, multi_token_loss
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.plots import plot_overlaid_curves, plot_values
from cs336_basics.variants.configs import LatentAttentionConfig, MixtureOfExpertsConfig, StateSpaceConfig
from cs336_basics.variants.latent_attention import LatentAttention
from cs336_basics.variants.mixture_of_experts import MixtureOfExperts, dispatch, load_balance_loss, route, router_z_loss
from cs336_basics.variants.state_space import SelectiveStateSpace
from lectures.content import Reference, exercise, plot, quiz, text

DATA = Path(__file__).parent / "data"
WORKS = {key: Reference(**work) for key, work in json.loads((DATA / "works.json").read_text(encoding="utf-8")).items()}
MOE_TEST = "tests/unit/basics/test_mixture_of_experts.py"
CLUSTERS, WIDTH = 8, 16


def main():
    text("# Experts, and alternatives to attention")
    text("*Lecture 4: more parameters for the same FLOPs, and memory that does not grow*")
    why_experts()
    routing()
    dispatching()
    same_flops()
    who_gets_what()
    balance_by_loss()
    balance_by_bias()
    capacity()
    finer_experts()
    upcycling()
    deepseek()
    all_to_all()
    several_tokens()
    latent_attention()
    linear_attention()
    what_a_state_holds()
    selective()
    state_or_cache()
    summary()


def why_experts():
    text("## More parameters, the same FLOPs")
    text("""
        Knowledge needs parameters; but in a dense model each parameter costs 2 FLOPs for *every* token, whether it has
        to do with the token or not. A **mixture of experts** keeps many feed-forward networks, and a small router
        sends each token to a few of them {shazeer}. For Mixtral {mixtral}, from its published sizes:
    """, shazeer=WORKS["shazeer2017"], mixtral=WORKS["mixtral"])  # fmt: skip
    experts = MixtureOfExpertsConfig(num_experts=8, top_k=2)
    mixtral = ModelConfig(32_000, 32_768, 4096, 32, 32, d_ff=14_336, num_kv_heads=8, moe=experts)  # @stepover
    total = sum(parameter_counts(mixtral).values()) / 1e9  # @inspect total @stepover
    idle = 32 * 6 * 3 * 4096 * 14_336 / 1e9  # @inspect idle
    active = total - idle  # @inspect active
    assert 46.6 < total < 46.8 and 12.8 < active < 13.0
    text("""
        {total:.1f} billion parameters, of which a token meets {active:.1f}. It is as fast as a model of 13 billion (if
        enough tokens come at once) and as large in memory as one of 47. "8 x 7B" is not 56: only feed-forward networks
        are multiplied, attention is there once.
    """, total=total, active=active)  # fmt: skip
    quiz(
        "For whom is that a good trade: a phone, or a service with many users?",
        "The service. Its many tokens keep all experts busy. One user on a phone pays for all the memory, and uses a "
        "quarter of it per token.",
    )


def routing():
    text("## The router")
    text(r"""
        One matrix gives a score per expert, a softmax makes probabilities, the best $k$ are taken, and their outputs
        are added with weights:

        $$p = \text{softmax}(W_r x), \qquad y = \sum_{e \in \text{top}_k(p)} g_e\, E_e(x), \qquad
        g_e = \frac{p_e}{\sum_{e' \in \text{top}_k} p_{e'}}$$
    """)
    logits = torch.tensor([[2.0, 1.0, 0.5, -1.0], [0.0, 0.1, 3.0, 2.9]])  # @inspect logits
    chosen, gates, probabilities = route(logits, 2)  # @inspect chosen gates probabilities @stepover
    assert chosen.tolist() == [[0, 1], [2, 3]] and torch.allclose(gates.sum(dim=1), torch.ones(2))
    text("""
        Choosing is not differentiable. The router learns through the gates alone: if expert 0 helped, its gate should
        have been larger. That is also why nothing ever tells it that an expert it did *not* choose would have been
        better.
    """)
    text("**Trap:** with $k = 1$, the normalised gate is always 1 and the router gets no gradient at all.")
    norms = {}
    for k in (1, 2):  # @inspect k
        scores = logits.clone().requires_grad_()
        _, _, p = route(scores, k)  # @stepover
        top = p.topk(k).values
        (top / top.sum(dim=1, keepdim=True))[:, 0].sum().backward()
        norms[k] = scores.grad.norm().item()  # @inspect norms
    assert norms[1] < 1e-6 < 0.1 < norms[2]
    text("So Switch Transformers {fedus}, which take one expert, use $p_e$ itself as the gate.", fedus=WORKS["fedus"])
    exercise("Write `route`.", function=route, test=MOE_TEST)


def dispatching():
    text("### From tokens to experts and back")
    text("""
        A loop over tokens would be far too slow. Sort the assignments by expert: now each expert has a stretch of rows
        and does one matrix product. Then undo the sorting and add up.
    """)
    torch.manual_seed(0)
    experts = [SwiGLU(4, 8) for _ in range(3)]  # @stepover
    x = torch.randn(5, 4)
    chosen, gates, _ = route(torch.randn(5, 3), 2)  # @inspect chosen @stepover
    expert_of = chosen.flatten()  # @inspect expert_of
    order = expert_of.argsort(stable=True)  # @inspect order
    counts = torch.bincount(expert_of, minlength=3)  # @inspect counts
    token_of = order // 2  # @inspect token_of
    y = dispatch(x, chosen, gates, experts=experts)  # @inspect y @stepover
    by_loop = torch.stack([sum(g * experts[e](row) for g, e in zip(gs, es, strict=True))
                           for row, gs, es in zip(x, gates, chosen, strict=True)])  # @stepover # fmt: skip
    assert torch.allclose(y, by_loop, atol=1e-6) and counts.sum() == 10 and len(token_of) == 10
    exercise("Write `dispatch` without a loop over tokens.", function=dispatch, test=MOE_TEST)


def same_flops():
    text("## Does it help? Equal FLOPs, one task")
    text("""
        A task made for experts: points in 16 dimensions come from 8 clusters, and each cluster has a linear map of its
        own that must be learned. A dense SwiGLU of width 32 against 8 experts of width 16, of which each token takes
        2:
    """)
    dense_flops = 2 * 3 * WIDTH * 32
    expert_flops = 2 * 3 * WIDTH * 16 * 2 + 2 * WIDTH * CLUSTERS  # the router included
    more = expert_flops / dense_flops - 1  # @inspect more
    assert 0.08 < more < 0.09
    torch.manual_seed(0)
    dense = SwiGLU(WIDTH, 32)  # @stepover
    sparse = MixtureOfExperts(WIDTH, 16, MixtureOfExpertsConfig(balance_loss=0.1, z_loss=0.0))  # @stepover
    losses = {"dense": train(dense), "8 experts": train(sparse)}  # @stepover
    final = {name: np.mean(curve[-20:]) for name, curve in losses.items()}  # @inspect final
    assert final["8 experts"] < 0.9 * final["dense"]
    plot(plot_overlaid_curves({name: list(enumerate(curve)) for name, curve in losses.items()},
                              xlabel="step", ylabel="mean squared error", logarithmic=True),
         alt="Training curves: eight experts reach a lower error than the dense layer.")  # fmt: skip
    text("""
        At the same FLOPs per token (but for the router's {more:.0%}), the error is {ratio:.0%} of the dense layer's. Texts do
        not fall into eight clusters, so in language models the gain is smaller; the papers cited here all report one.
    """, more=more, ratio=final["8 experts"] / final["dense"])  # fmt: skip


def cluster_task(generator):
    """Draws batches: points, their targets."""
    fixed = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(WIDTH, generator=fixed) + 2 * torch.randn(CLUSTERS, WIDTH, generator=fixed)
    maps = torch.randn(CLUSTERS, WIDTH, WIDTH, generator=fixed) / 4
    while True:
        cluster = torch.randint(CLUSTERS, (128,), generator=generator)
        offset = torch.randn(128, WIDTH, generator=generator)
        yield centres[cluster] + offset, torch.einsum("nij,nj->ni", maps[cluster], offset)


def train(layer, steps=150):
    optimizer = AdamW(layer.parameters(), lr=1e-2, weight_decay=0.0)
    curve = []
    for x, y in itertools.islice(cluster_task(torch.Generator().manual_seed(1)), steps):
        error = (layer(x) - y).square().mean()
        auxiliary = getattr(layer, "auxiliary_loss", None)
        optimizer.zero_grad()
        (error if auxiliary is None else error + auxiliary).backward()
        optimizer.step()
        if getattr(layer, "selection_bias", None) is not None:
            layer.update_selection_bias(1e-2)
        curve.append(error.item())
    return curve


@torch.no_grad()
def loads(layer):
    counts = torch.zeros(CLUSTERS)
    for x, _ in itertools.islice(cluster_task(torch.Generator().manual_seed(2)), 8):
        chosen, _, _ = route(x @ layer.router.weight.T, 2, selection_bias=layer.selection_bias)
        counts += torch.bincount(chosen.flatten(), minlength=CLUSTERS)
    return (counts / counts.sum()).tolist()


def who_gets_what():
    text("## Who gets what")
    text("""
        An expert that is chosen learns, becomes better, and is chosen more: the rich get richer. All vectors in a real
        model have something in common (so do ours: the clusters' common offset), so at first all tokens tend to the
        same experts. Three layers with the same start: no balancing, a loss, a bias.
    """)
    kinds = {
        "none": MixtureOfExpertsConfig(balance_loss=0.0, z_loss=0.0),
        "loss": MixtureOfExpertsConfig(balance_loss=0.1, z_loss=0.0),
        "bias": MixtureOfExpertsConfig(balance_loss=0.0, z_loss=0.0, bias_balancing=True),
    }
    shares, errors = {}, {}
    for name, config in kinds.items():  # @inspect name
        torch.manual_seed(0)
        layer = MixtureOfExperts(WIDTH, 16, config)  # @stepover
        errors[name] = np.mean(train(layer)[-20:])  # @inspect errors @stepover
        shares[name] = loads(layer)  # @inspect shares @stepover
    plot(plot_values([str(e) for e in range(CLUSTERS)], shares, xlabel="expert", ylabel="share of the tokens"),
         alt="Bars: share of tokens per expert; very uneven without balancing, near an eighth each with it.")  # fmt: skip
    busiest = {name: max(values) * CLUSTERS for name, values in shares.items()}  # @inspect busiest
    assert busiest["none"] > 1.2 * max(busiest["loss"], busiest["bias"])
    text("""
        Without balancing, the busiest expert gets {none:.1f} times the mean and some get almost nothing: parameters
        that were paid for and never used, and, when experts live on different GPUs, one GPU for which all others wait.
    """, none=busiest["none"])  # fmt: skip


def balance_by_loss():
    text("### Remedy 1: a loss")
    text(r"""
        Let $f_e$ be the share of assignments that expert $e$ got and $P_e$ its mean probability. The loss of {fedus},

        $$\mathcal{L} = E \sum_e f_e P_e,$$

        is 1 when all are equal, and $E$ when one takes all. $f$ is a count and has no gradient; through $P$ an expert's
        probability is pushed down in proportion to its load, $\partial \mathcal{L} / \partial P_e = E f_e$.
    """, fedus=WORKS["fedus"])  # fmt: skip
    uniform = torch.full((100, 4), 0.25)
    even = load_balance_loss(uniform, torch.tensor([25, 25, 25, 25]))  # @inspect even @stepover
    one = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(100, 4)
    uneven = load_balance_loss(one, torch.tensor([100, 0, 0, 0]))  # @inspect uneven @stepover
    assert even == 1 and uneven == 4
    text(r"""
        **Trap:** the loss is *not* minimal at balance in general: with $f$ fixed it is linear in $P$. It works because
        $f$ follows $P$. And it pulls against the task: too large a weight, and the router routes by chance.
    """)
    text("A second loss, the router's z-loss {zoph}, keeps its logits small, for they go through an exponential:",
         zoph=WORKS["zoph"])  # fmt: skip
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [10.0, 0.0, 0.0, 0.0]])
    small, large = (router_z_loss(row[None]) for row in logits)  # @inspect small large @stepover
    assert math.isclose(small, math.log(4) ** 2, rel_tol=1e-6) and large > 99
    exercise("Write `load_balance_loss`.", function=load_balance_loss, test=MOE_TEST)


def balance_by_bias():
    text("### Remedy 2: a bias, and no loss")
    text(r"""
        {wang}: add $b_e$ to the scores *for the choice only*, and after each step raise it by a little for experts
        below the mean load and lower it for those above. Gates and gradients never see it, so the task is not disturbed:
    """, wang=WORKS["wang"])  # fmt: skip
    torch.manual_seed(0)
    logits = torch.randn(512, 8) + torch.tensor([2.0, 1, 0, 0, 0, 0, 0, 0])
    bias = torch.zeros(8)
    for _ in range(120):  # @every 30
        chosen, gates, _ = route(logits, 2, selection_bias=bias)  # @stepover
        load = torch.bincount(chosen.flatten(), minlength=8) / 128  # @inspect load
        bias = bias + 0.01 * torch.sign(1 - load)  # @inspect bias
    before = torch.bincount(route(logits, 2)[0].flatten(), minlength=8) / 128  # @inspect before @stepover
    assert before.max() > 2 > 1.25 > load.max() and load.min() > 0.75
    text("Loads are relative to the mean. The busiest expert goes from {before:.1f} to {after:.2f}.",
         before=before.max(), after=load.max())  # fmt: skip
    exercise("Let a layer balance itself.", function=MixtureOfExperts, test=MOE_TEST)


def capacity():
    text("## Capacity and dropped tokens")
    text(r"""
        Fast kernels and networks like fixed sizes. So an expert may be given room for
        $C = \text{factor} \cdot \text{tokens} \cdot k / E$ assignments; what comes after that is **dropped**: the token
        passes this layer on the residual stream alone. Which share is lost, with 1024 tokens, 8 experts and $k = 2$?
    """)
    generator = np.random.default_rng(0)
    even, uneven = np.full(8, 1 / 8), np.array([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05, 0.05])
    loads_of = {name: generator.multinomial(2048, p) for name, p in [("balanced", even), ("skewed", uneven)]}
    factors = np.arange(0.5, 3.01, 0.125)
    curves = {name: [(f, dropped(load, f)) for f in factors] for name, load in loads_of.items()}  # @stepover
    at_one = {name: dropped(load, 1.0) for name, load in loads_of.items()}  # @inspect at_one
    assert at_one["balanced"] < 0.05 < 0.2 < at_one["skewed"] and curves["skewed"][-1][1] == 0
    plot(plot_overlaid_curves(curves, xlabel="capacity factor", ylabel="share of assignments dropped"),
         alt="Dropped share over the capacity factor: with balance it falls to zero just above one, skewed at 2.4.")  # fmt: skip
    text("""
        Even with perfect balance on average, chance alone drops {even:.1%} at a factor of 1; with the skewed loads
        {uneven:.0%}. A factor of 1.25 costs 25 % more memory and padding. Newer implementations drop nothing: they use
        products of blocks of different heights, as our `dispatch` does.
    """, even=at_one["balanced"], uneven=at_one["skewed"])  # fmt: skip
    text("""
        **Trap:** with dropping, what a token becomes depends on the *other tokens of the batch*: the same prompt can
        give different answers in different company.
    """)


def dropped(load, factor):
    room = math.ceil(factor * load.sum() / len(load))
    return float(np.maximum(load - room, 0).sum() / load.sum())


def finer_experts():
    text("## Finer experts, and one for all")
    text("""
        {dai} cut each expert into $m$ smaller ones and choose $m$ times as many: the same parameters and FLOPs, but many
        more combinations. And common knowledge need not be learned by every expert: some **shared** experts see all
        tokens.
    """, dai=WORKS["dai"])  # fmt: skip
    coarse, fine = math.comb(16, 2), math.comb(64, 8)  # @inspect coarse fine
    assert coarse == 120 and fine == 4_426_165_368
    text("Two of 16 can be chosen in {coarse} ways, eight of 64 in {fine:,}.", coarse=coarse, fine=fine)
    quiz("Why not a million tiny experts?",
         "Routing, sorting and communication grow with the number of choices, and very thin matrices use a GPU badly.")  # fmt: skip


def upcycling():
    text("## From a dense model")
    text("""
        Upcycling {komatsuzaki}: copy a trained feed-forward network into every expert. Since gates add up to one, the
        model is, at first, exactly the dense one; noise and different tokens then drive experts apart.
    """, komatsuzaki=WORKS["komatsuzaki"])  # fmt: skip
    torch.manual_seed(0)
    dense = SwiGLU(8, 16)  # @stepover
    sparse = MixtureOfExperts(8, 16, MixtureOfExpertsConfig(num_experts=4, top_k=2))  # @stepover
    for expert in sparse.experts:
        expert.load_state_dict(dense.state_dict())  # @stepover
    x = torch.randn(6, 8)
    difference = (sparse(x) - dense(x)).abs().max()  # @inspect difference @stepover
    assert difference < 1e-6
    text("**Trap:** with gates that do not add up to one ($k = 1$, or probabilities as they are) it would not be.")


def deepseek():
    text("## One family, three steps")
    text("""
        | | DeepSeekMoE | V2 | V3 |
        |---|---|---|---|
        | year | Jan 2024 | May 2024 | Dec 2024 |
        | parameters, active (billions) | 16.4, 2.8 | 236, 21 | 671, 37 |
        | routed experts, chosen | 64, 6 | 160, 6 | 256, 8 |
        | shared | 2 | 2 | 1 |
        | attention | all heads | latent | latent |
        | balance | loss | losses, also per device | bias, sigmoid scores, a tiny loss per sequence |
        | a token's experts lie on at most | | 3 devices | 4 machines |
    """)
    text("Figures from {dai}, {v2}, {v3}. Does the last column add up? From its table of sizes:", dai=WORKS["dai"],
         v2=WORKS["deepseek2"], v3=WORKS["deepseek3"])  # fmt: skip
    d, layers, dense_layers = 7168, 61, 3
    expert = 3 * d * 2048  # @inspect expert
    attention = d * 1536 + 1536 * 128 * (128 + 64) + d * (512 + 64) + 512 * 128 * (128 + 128) + 128 * 128 * d
    outside = layers * attention + dense_layers * 3 * d * 18_432 + 2 * 129_280 * d  # @inspect outside
    total = (outside + (layers - dense_layers) * (257 * expert + 256 * d)) / 1e9  # @inspect total
    active = (outside + (layers - dense_layers) * (9 * expert + 256 * d)) / 1e9  # @inspect active
    assert 670.5 < total < 671.5 and 37 < active < 38
    text("""
        {total:.0f} billion in all and {active:.1f} active with both embedding tables counted. The first three layers
        are dense; {share:.0%} of all parameters are routed experts, of which a token uses one in 32.
    """, total=total, active=active, share=58 * 256 * expert / total / 1e9)  # fmt: skip


def all_to_all():
    text("## What travels")
    text(r"""
        256 experts do not fit on one GPU, so tokens travel to their experts and back: twice an *all-to-all* per layer.
        A token need be sent only once to each of $n$ devices, even if several of its $k$ experts live there. With
        $E/n$ experts per device and experts chosen at random it visits (its own may be among them)

        $$n \left( 1 - \binom{E - E/n}{k} \Big/ \binom{E}{k} \right) \text{ devices.}$$
    """)
    experts, k = 256, 8
    visits = {
        n: n * (1 - math.comb(experts - experts // n, k) / math.comb(experts, k)) for n in (4, 8, 16, 32)
    }  # @inspect visits
    generator = np.random.default_rng(0)
    chosen = generator.random((4000, experts)).argsort(axis=1)[:, :k]
    simulated = np.mean([len(set(row // 32)) for row in chosen])  # @inspect simulated @stepover
    assert abs(simulated - visits[8]) < 0.05 and visits[32] > 7
    text("A simulation with 8 devices: {simulated:.2f}, by the formula {formula:.2f}. The bytes per token and layer, with "
         "8-bit numbers on the way out and 16-bit ones on the way back:", simulated=simulated, formula=visits[8])  # fmt: skip
    kilobytes = {n: count * 7168 * (1 + 2) / 1e3 for n, count in visits.items()}  # @inspect kilobytes
    limited = 4 * 7168 * 3 / 1e3  # @inspect limited
    flops = 2 * 9 * 3 * 7168 * 2048
    per_byte = flops / (1e3 * kilobytes[32])  # @inspect per_byte
    assert 80 < limited < 90 and 4900 < per_byte < 5100
    text("""
        {all:.0f} KB for 32 devices, or {limited:.0f} KB if the router may use only four machines, as in V3. About
        {per_byte:,.0f} FLOPs are done per byte sent. A GPU that does 500 TFLOP/s and sends 50 GB/s would need twice
        that to be busy all the time, so the transfer must be hidden behind the computation of other tokens.
    """, all=kilobytes[32], limited=limited, per_byte=per_byte)  # fmt: skip
    assert 500e12 / 50e9 == 10_000


def several_tokens():
    text("## Predict more than one token")
    text("""
        V3 also predicts the token *after* the next, by a small extra block {gloeckle}. Each position gives more signal,
        and when decoding, the second prediction is a draft for free: V3's report says that 85 to 90 % are accepted.
        Our version puts further heads on one trunk:
    """, gloeckle=WORKS["gloeckle"])  # fmt: skip
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(32, 16, 32, 2, 4))  # @stepover
    predictor = MultiTokenPredictor(model, 2)  # @stepover
    rows = torch.randint(32, (2, 9))  # @inspect rows
    logits = predictor(rows[:, :-1])  # @inspect logits @stepover
    loss = multi_token_loss(logits, rows)  # @inspect loss @stepover
    targets = [rows[:, ahead:] for ahead in (1, 2)]  # @inspect targets
    assert torch.equal(logits[0], model(rows[:, :-1])) and [t.shape[1] for t in targets] == [8, 7]
    text("The first head *is* the model; the second has one target fewer.")
    exercise("Write the loss of several heads.", function=multi_token_loss,
             test="tests/unit/basics/test_objectives.py")  # fmt: skip


def latent_attention():
    text("## Attention, the same or nearly: through a latent")
    text(r"""
        The rest of this lecture is about attention's memory. Latent attention (MLA) caches one vector $c$ per token,
        from which every head's keys and values are made. At decoding nobody makes them: $(U_h c)^\top q =
        c^\top (U_h^\top q)$, the query goes to the latent. Both forms, token by token and all at once:
    """)
    sizes = LatentAttentionConfig(kv_rank=16, content_dim=8, rope_dim=4, value_dim=8)
    config = ModelConfig(32, 16, 32, 1, 4, latent_attention=sizes)  # @stepover
    torch.manual_seed(0)
    layer = LatentAttention(config, RotaryPositionalEmbedding(10_000.0, 4, 16))  # @stepover
    x, cache = torch.randn(1, 6, 32), layer.new_cache(1, 6)  # @stepover
    with torch.no_grad():
        whole = layer(x)  # @inspect whole @stepover
        steps = [layer(x[:, t : t + 1], torch.tensor([t]), cache) for t in range(6)]  # @stepover
    error = (torch.cat(steps, dim=1) - whole).abs().max()  # @inspect error
    assert error < 1e-5 and isinstance(cache, KVCache)
    text("Lecture 10 counts what it saves: a factor of 57 for DeepSeek-V2. But the cache still grows with every token.")
    exercise("Carry the query into the latent.", function=LatentAttention, test="tests/unit/basics/test_variants.py")


def linear_attention():
    text("## Linear attention: drop the softmax")
    text(r"""
        Without softmax, attention is a product of three matrices and may be computed in either order
        {katharopoulos}. Causally, with $q_t, k_t, v_t$ as rows:

        $$\text{parallel: } O = (Q K^\top \odot M)\, V \qquad \text{recurrent: } S_t = S_{t-1} + k_t v_t^\top, \quad
        o_t = S_t^\top q_t$$

        at a cost of $O(T^2 d)$ and $O(T d^2)$. They agree, since

        $$o_t = \sum_{j \le t} (q_t^\top k_j)\, v_j = \Big(\sum_{j \le t} k_j v_j^\top\Big)^\top q_t.$$

        The state $S$ has $d \times d$ numbers at any length. With a decay $a_t \in (0, 1]$ that forgets (RetNet, Mamba-2
        {duality}), $S_t = a_t S_{t-1} + k_t v_t^\top$, and $M_{tj} = \prod_{s=j+1}^{t} a_s$:
    """, katharopoulos=WORKS["katharopoulos"], duality=WORKS["duality"])  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(12, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    for decay in (torch.ones(12), 0.5 + 0.5 * torch.rand(12, generator=generator)):
        sums = decay.double().log().cumsum(dim=0)  # @inspect decay
        mask = torch.exp(sums[:, None] - sums[None, :]).tril()  # @inspect mask
        parallel = (q @ k.T * mask) @ v  # @inspect parallel
        recurrent = recurrence(q, k, v, decay.double())  # @inspect recurrent
        assert torch.allclose(parallel, recurrent, atol=1e-12)
    text(r"""
        The same numbers: train in parallel, decode with a state. In between, **chunks**: parallel inside a chunk of
        length $C$, recurrent from chunk to chunk, which gives large matrix products *and* a cost linear in $T$.
    """)


def recurrence(q, k, v, decay):
    state, outputs = torch.zeros(k.shape[1], v.shape[1], dtype=q.dtype), []
    for t in range(len(q)):  # @every 4
        state = decay[t] * state + torch.outer(k[t], v[t])  # @inspect state
        outputs.append(state.T @ q[t])
    return torch.stack(outputs)


def what_a_state_holds():
    text("### What fits into a state")
    text(r"""
        What is the price? Store $n$ pairs and ask for one by its key. With unit keys the answer is
        $v_i + \sum_{j \ne i} (k_i^\top k_j)\, v_j$: right, plus a noise whose size grows like $\sqrt{n / d}$. Softmax
        attention sharpens the match; the **delta rule** {yang} corrects before it writes, removing what the key gives so
        far:

        $$S_t = S_{t-1} + k_t \big(v_t - S_{t-1}^\top k_t\big)^\top$$
    """, yang=WORKS["yang"])  # fmt: skip
    key, old, new = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0]), torch.tensor([5.0, 0.0])
    keys, values = torch.stack([key, key]), torch.stack([old, new])
    added = recall("linear", keys, values)[1]  # @inspect added @stepover
    replaced = recall("delta", keys, values)[1]  # @inspect replaced @stepover
    assert torch.equal(added, old + new) and torch.equal(replaced, new)
    text("A key written twice: linear attention gives the *sum* of both values, the delta rule the newer one.")
    curves = {
        kind: [(n, accuracy(kind, n)) for n in (4, 16, 32, 64, 128, 256)] for kind in ("softmax", "linear", "delta")
    }  # @stepover
    newest = {kind: accuracy(kind, 8, rounds=4) for kind in curves}  # @inspect newest @stepover
    assert curves["softmax"][-1][1] > 0.99 and max(curves["linear"][-1][1], curves["delta"][-1][1]) < 0.4
    assert newest["delta"] > 0.8 > 0.6 > max(newest["linear"], newest["softmax"])
    plot(plot_overlaid_curves(curves, xlabel="different pairs stored", ylabel="right values recalled"),
         alt="Recall over the number of pairs, states of 32 x 32: softmax stays at one, linear and delta fall from 16 on.")  # fmt: skip
    text("""
        Keys and values of 32 dimensions. A state of 32 x 32 mixes *different* pairs up when there are more than its
        dimensions, by either rule; softmax over all keys does not. But when 8 keys are written 4 times each and the
        newest value is asked for, the delta rule recalls {delta:.0%}, linear attention {linear:.0%} and softmax, which
        averages over equal keys, {softmax:.0%}. States are good at keeping track, poor at looking up. This is why many
        models are **hybrids**, with full attention in one layer of four to eight.
    """, delta=newest["delta"], linear=newest["linear"], softmax=newest["softmax"])  # fmt: skip


def recall(kind, keys, values):
    if kind == "softmax":
        return softmax(32 * keys @ keys.T, dim=-1) @ values
    state = torch.zeros(keys.shape[1], values.shape[1])
    for key, value in zip(keys, values, strict=True):
        known = state.T @ key if kind == "delta" else 0.0
        state = state + torch.outer(key, value - known)
    return keys @ state


def accuracy(kind, n, rounds=1):
    generator = torch.Generator().manual_seed(n)
    keys = torch.randn(n, 32, generator=generator)
    keys = (keys / keys.norm(dim=1, keepdim=True)).repeat(rounds, 1)
    values = torch.randn(len(keys), 32, generator=generator)
    nearest = torch.cdist(recall(kind, keys, values)[-n:], values).argmin(dim=1)
    return (nearest == torch.arange(len(keys) - n, len(keys))).double().mean().item()


def selective():
    text("## Selective state spaces")
    text(r"""
        Mamba {gu} has such a state for each channel, and lets the *token* say how much to keep and what to write:
        $h_t = e^{\Delta_t A} h_{t-1} + \Delta_t B_t u_t$, $y_t = C_t^\top h_t$. With $\Delta_t \to 0$ the token is
        ignored, with a large one the past is forgotten. Our module, all at once and token by token:
    """, gu=WORKS["gu"])  # fmt: skip
    torch.manual_seed(0)
    layer = SelectiveStateSpace(16, StateSpaceConfig(d_state=8))  # @stepover
    x, cache = torch.randn(1, 20, 16), layer.new_cache(1)  # @stepover
    with torch.no_grad():
        whole = layer(x)  # @inspect whole @stepover
        steps = [layer(x[:, t : t + 1], cache=cache) for t in range(20)]  # @stepover
    error = (torch.cat(steps, dim=1) - whole).abs().max()  # @inspect error
    state = cache.state  # @inspect state
    assert error < 1e-5 and state.shape == (1, 32, 8)
    text("The state after 20 tokens is as large as after one.")
    exercise("Write the selective scan, in parallel over chunks.", function=SelectiveStateSpace,
             test="tests/unit/basics/test_state_space.py")  # fmt: skip


def state_or_cache():
    text("### State or cache?")
    text(
        "Numbers kept per layer, 32 heads of width 128: all keys and values, 8 key heads, and one state of 128 x 128 per head."
    )
    tokens = [2**i for i in range(4, 17)]
    kept = {
        "32 key heads": [(t, 2 * 32 * 128 * t) for t in tokens],
        "8 key heads": [(t, 2 * 8 * 128 * t) for t in tokens],
        "linear state": [(t, 32 * 128 * 128) for t in tokens],
    }
    even = 32 * 128 * 128 // (2 * 8 * 128)  # @inspect even
    assert even == 256
    plot(plot_overlaid_curves(kept, xlabel="tokens", ylabel="numbers per layer", logarithmic=True),
         alt="Numbers kept over tokens: caches grow without end, the linear state is constant and equal at 256 tokens.")  # fmt: skip
    text("""
        Against 8 key heads the state pays from {even} tokens on; at 65,536 tokens it is {times:.0f} times smaller. At
        shorter lengths it is the cache that is smaller.
    """, even=even, times=65_536 / even)  # fmt: skip


def summary():
    text("## What to take home")
    text("""
        - Experts separate the number of parameters from the FLOPs per token; memory and communication pay.
        - A router learns only from what it chose. Left alone, it starves experts: balance by a loss or, better, a bias.
        - Fine-grained and shared experts; no dropping, if the kernels allow.
        - Linear attention is a recurrence: parallel to train, a fixed state to decode, a limited memory.
        - Hybrids keep a few layers of attention for looking things up.
    """)
    text("*Next: the machines on which all this runs.*")


if __name__ == "__main__":
    main()

"""The forward pass of every variant in NumPy float64: one sequence, one head and one query at a time.

Written from the papers' formulas for independence, not speed; it shares no code with the library. `weights` is a
state dict of arrays, `config` a ModelConfig.
"""

from __future__ import annotations

import math

import numpy as np

from tests.fixtures.numpy_transformer import gelu, part, silu


def logits(ids: np.ndarray, weights: dict[str, np.ndarray], config) -> np.ndarray:
    """(batch, seq) ids to (batch, seq, vocab) logits."""
    return np.stack([_one(row, weights, config) for row in ids])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def norm(x, weights, name, config):
    eps, gain = config.norm_eps, weights.get(f"{name}.weight", 1.0)
    if config.norm_type == "layernorm":
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return scaled * gain + weights[f"{name}.bias"]
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * gain


def feed_forward(x, w, kind):
    hidden = x @ w["w1.weight"].T
    if kind in ("swiglu", "geglu", "reglu"):
        gate = {"swiglu": silu, "geglu": gelu, "reglu": relu}[kind]
        return (gate(hidden) * (x @ w["w3.weight"].T)) @ w["w2.weight"].T
    activation = {"gelu": gelu, "silu": silu, "relu": relu, "relu2": lambda y: relu(y) ** 2}[kind]
    return activation(hidden) @ w["w2.weight"].T


def rotate(x, position, config):
    """One vector at one position; the frequencies follow config.rope_scaling."""
    d = len(x)
    out, scaling = np.empty(d), config.rope_scaling
    for k in range(d // 2):
        frequency, size = config.rope_theta ** (-2 * k / d), 1.0
        if scaling is not None and scaling.kind == "linear":
            frequency /= scaling.factor
        elif scaling is not None:
            length, log_theta = scaling.original_context_length, math.log(config.rope_theta)
            low = d / 2 * math.log(length / (2 * math.pi * scaling.beta_fast)) / log_theta
            high = d / 2 * math.log(length / (2 * math.pi * scaling.beta_slow)) / log_theta
            low, high = max(math.floor(low), 0), min(math.ceil(high), d - 1)
            kept = 1 - min(max((k - low) / (high - low), 0), 1)
            frequency = frequency * kept + frequency / scaling.factor * (1 - kept)
            size = 0.1 * math.log(scaling.factor) + 1
        a, b = (2 * k, 2 * k + 1) if config.rope_pairs == "interleaved" else (k, k + d // 2)
        turned = (x[a] + 1j * x[b]) * np.exp(1j * position * frequency) * size
        out[a], out[b] = turned.real, turned.imag
    return out


def alibi_slope(head: int, heads: int) -> float:
    """Slope of head 0, 1, ...: the authors' recipe, recursively."""
    if math.log2(heads).is_integer():
        return (2 ** (-8 / heads)) ** (head + 1)
    power = 2 ** math.floor(math.log2(heads))
    return alibi_slope(head, power) if head < power else alibi_slope(2 * (head - power), 2 * power)


def head_output(queries, keys, values, scale, *, window=None, cap=None, slope=0.0, sink=None):
    """One head: a loop over queries and, inside, over keys."""
    out = np.zeros((len(queries), values.shape[1]))
    for i, query in enumerate(queries):
        terms = {}
        for j in range(i + 1):
            if window is not None and i - j >= window:
                continue
            score = float(query @ keys[j]) * scale
            score = score if cap is None else cap * math.tanh(score / cap)
            terms[j] = math.exp(score - slope * (i - j))
        total = sum(terms.values()) + (0.0 if sink is None else math.exp(sink))
        for j, term in terms.items():
            out[i] += term / total * values[j]
    return out


def project(x, w, name):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


def attention(x, w, config, layer, ids):
    d, group = config.d_head, config.num_heads // config.kv_heads
    q, k, v = (project(x, w, f"{name}_proj").reshape(len(x), -1, d) for name in "qkv")
    if config.qk_norm:
        q, k = norm(q, w, "q_norm", config), norm(k, w, "k_norm", config)
    if "value_embedding.table.weight" in w:
        gate = 3 * sigmoid(x[:, :12] @ w["value_embedding.gate.weight"].T)
        v = v + gate[:, :, None] * w["value_embedding.table.weight"][ids].reshape(v.shape)
    if config.positions == "rope":
        for array in (q, k):
            for t, head in np.ndindex(array.shape[:2]):
                array[t, head] = rotate(array[t, head], t, config)
    window = config.attention_window if config.layer_mixers[layer] == "window" else None
    heads = [
        head_output(
            q[:, h], k[:, h // group], v[:, h // group], config.attention_scale / math.sqrt(d), window=window,
            cap=config.attention_softcap, sink=w["sinks"][h] if config.attention_sinks else None,
            slope=alibi_slope(h, config.num_heads) if config.positions == "alibi" else 0.0,
        )
        for h in range(config.num_heads)
    ]  # fmt: skip
    return np.concatenate(heads, axis=1) @ w["output_proj.weight"].T


def latent_attention(x, w, config):
    """DeepSeek-V2, section 2.1: equations 9 to 19, keys and values of each head written out."""
    sizes, heads = config.latent_attention, config.num_heads
    source = x if sizes.q_rank is None else norm(x @ w["q_down.weight"].T, w, "q_norm", config)
    q = (source @ w["q_proj.weight"].T).reshape(len(x), heads, sizes.content_dim + sizes.rope_dim)
    down = x @ w["kv_down.weight"].T
    latent = norm(down[:, : sizes.kv_rank], w, "kv_norm", config)
    shared_key = np.stack([rotate(row, t, config) for t, row in enumerate(down[:, sizes.kv_rank :])])
    up = (latent @ w["kv_up.weight"].T).reshape(len(x), heads, sizes.content_dim + sizes.value_dim)
    outputs = []
    for h in range(heads):
        content, rotary = q[:, h, : sizes.content_dim], q[:, h, sizes.content_dim :]
        query = np.concatenate([content, [rotate(row, t, config) for t, row in enumerate(rotary)]], axis=1)
        key = np.concatenate([up[:, h, : sizes.content_dim], shared_key], axis=1)
        outputs.append(head_output(query, key, up[:, h, sizes.content_dim :], query.shape[1] ** -0.5))
    return np.concatenate(outputs, axis=1) @ w["output_proj.weight"].T


def block(x, w, config, layer, ids):
    def attend(y):
        own = part(w, "attn.")
        latent = config.latent_attention is not None
        return latent_attention(y, own, config) if latent else attention(y, own, config, layer, ids)

    def feed(y):
        return feed_forward(y, part(w, "ffn."), config.ffn)

    def n(y, name):
        return norm(y, w, name, config)

    if config.norm == "parallel":
        return x + attend(n(x, "ln1")) + feed(n(x, "ln1"))
    if config.norm == "sandwich":
        x = x + n(attend(n(x, "ln1")), "ln1_out")
        return x + n(feed(n(x, "ln2")), "ln2_out")
    if config.norm == "post":
        x = n(x + attend(x), "ln1")
        return n(x + feed(x), "ln2")
    if config.norm == "none":
        x = x + attend(x)
        return x + feed(x)
    x = x + attend(n(x, "ln1"))
    return x + feed(n(x, "ln2"))


def _one(ids, weights, config):
    x = weights["token_embeddings.weight"][ids]
    if config.positions == "learned":
        x = x + weights["position_embeddings.weight"][: len(ids)]
    if config.embedding_norm:
        x = norm(x, weights, "embedding_norm", config)
    if config.smear:
        smeared = x.copy()
        for t in range(1, len(x)):
            gate = weights["stream.smear_scale"] * sigmoid(weights["stream.smear_gate.weight"] @ x[t, :24])
            smeared[t] = x[t] + gate * x[t - 1]
        x = smeared
    first = after = x
    for layer in range(config.num_layers):
        if config.residual_scalars:
            scale, share = weights["stream.stream_scale"][layer], weights["stream.embedding_scale"][layer]
            x = scale * x + share * first
        x = block(x, part(weights, f"layers.{layer}."), config, layer, ids)
        after = x if layer == config.num_layers // 2 else after
    if config.backout:
        x = x - weights["stream.backout_scale"] * after
    if config.norm not in ("post", "none"):
        x = norm(x, weights, "ln_final", config)
    head = weights["token_embeddings.weight" if config.tie_embeddings else "lm_head.weight"]
    scores = x @ head.T
    return scores if config.logit_softcap is None else config.logit_softcap * np.tanh(scores / config.logit_softcap)

"""Cached greedy generation at the course's TinyStories shape against transformers' generate, in one process.

    python benchmarks/bench_generation.py [--repeats 9] [--quick]

Both models have d_model 512, 4 layers, 16 heads, d_ff 1344, vocabulary 10,000, float32, 2 threads and the same
weights; 4 prompts of 16 tokens are continued by 128 tokens and all must choose the same tokens. Ours runs through the
model's modules (engine="plain") and with compiled steps (engine="compiled", compiled before the clock starts; packing
the weights is included). Runs of all and of a bare pass over all matrices (the products one token needs, nothing else)
alternate, so that other work on the machine hits all alike; medians are compared. Prefill is included.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable
from typing import Literal

import torch

from cs336_basics.generation import generate
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment

D_MODEL, LAYERS, HEADS, D_FF, VOCAB, CONTEXT, BATCH, PROMPT, NEW = 512, 4, 16, 1344, 10_000, 256, 4, 16, 128
NAMES = {
    "model.embed_tokens": "token_embeddings", "model.norm": "ln_final", "model.layers": "layers",
    "self_attn.o_proj": "attn.output_proj", "self_attn": "attn", "mlp.gate_proj": "ffn.w1",
    "mlp.down_proj": "ffn.w2", "mlp.up_proj": "ffn.w3", "input_layernorm": "ln1", "post_attention_layernorm": "ln2",
}  # fmt: skip

ENGINES: dict[str, Literal["plain", "compiled"]] = {"ours, plain": "plain", "ours, compiled steps": "compiled"}
Generate = Callable[[], list[list[int]]]


def rivals(prompt: torch.Tensor) -> tuple[dict[str, Generate], torch.nn.Module]:
    """Transformers and both of ours, and our model; the weights are transformers' own draw."""
    from transformers import LlamaConfig, LlamaForCausalLM

    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5,
            tie_word_embeddings=False, attn_implementation="sdpa", initializer_range=0.1, pad_token_id=0,
            bos_token_id=None, eos_token_id=None,
        )
    ).eval()  # fmt: skip
    state = {}
    for name, value in theirs.state_dict().items():
        for old, new in NAMES.items():
            name = name.replace(old, new)
        state[name] = value
    ours = TransformerLM(ModelConfig(VOCAB, CONTEXT, D_MODEL, LAYERS, HEADS, D_FF, rope_pairs="halves")).eval()
    ours.load_state_dict(state)
    mask = torch.ones_like(prompt)

    def generate_theirs() -> list[list[int]]:
        with torch.no_grad():
            out = theirs.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=NEW, use_cache=True)
        return out[:, PROMPT:].tolist()

    runs: dict[str, Generate] = {"transformers generate": generate_theirs}
    for name, engine in ENGINES.items():
        runs[name] = lambda engine=engine: generate(ours, prompt, NEW, temperature=0.0, engine=engine)
    return runs, ours


def all_matrices(model: torch.nn.Module) -> Generate:
    """The matrix products of NEW tokens without anything between them: what no decoder in torch goes below."""
    weights = [p.detach() for name, p in model.named_parameters() if p.dim() == 2 and "embeddings" not in name]
    rows = {width: torch.randn(BATCH, width) for width in (D_MODEL, D_FF)}

    def run() -> list[list[int]]:
        for _ in range(NEW):
            for weight in weights:
                torch.nn.functional.linear(rows[weight.shape[1]], weight)
        return []

    return run


def main() -> None:
    """Measure, print a table, write results/generation.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="2 repeats, no result file")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else arguments.repeats
    torch.set_num_threads(2)
    torch.manual_seed(0)
    prompt = torch.randint(1, VOCAB, (BATCH, PROMPT))
    runs, model = rivals(prompt)
    tokens = [run() for run in runs.values()]  # also the warm-up
    same = all(found == tokens[0] for found in tokens)
    runs["matrix products alone"] = all_matrices(model)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = {}
    for name, values in seconds.items():
        rows[name] = {
            "median_s": round(median[name], 4), "fastest_s": round(min(values), 4), "slowest_s": round(max(values), 4),
            "ms_per_step": round(1000 * median[name] / NEW, 3), "tokens_per_s": round(BATCH * NEW / median[name]),
            "speed_ratio_to_transformers": round(median["transformers generate"] / median[name], 3),
        }  # fmt: skip
        print(f"{name:24s} {rows[name]}")
    print(f"same tokens: {same}")
    if not arguments.quick:
        result = {"repeats": repeats, "same_tokens": same, "rows": rows}
        write_json(
            "benchmarks/results/generation.json",
            result | {"measured": datetime.date.today().isoformat(), "environment": describe_environment()},
        )


if __name__ == "__main__":
    main()

"""Training step at the course's TinyStories shape against transformers' Llama with SDPA and torch's AdamW, in one
process.

    python benchmarks/bench_training_step.py [--repeats 20] [--quick]

Both models have d_model 512, 4 layers, 16 heads, d_ff 1344, vocabulary 10,000, context 256, batch 8, float32, 2
threads; a step is forward, loss, backward, clipping, update. Steps of the rivals and a bare matrix product alternate,
so that other work on the machine hits all alike; medians are compared. Model FLOPs: 6 per matrix weight and token
plus 12 layers d_model context per token.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
from collections.abc import Callable

import torch

from cs336_basics.blocked_attention import blocked_causal_attention
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.nn_utils import clip_gradient, cross_entropy
from cs336_basics.optimizer import AdamW
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.training import keep_freed_memory

D_MODEL, LAYERS, HEADS, D_FF, VOCAB, CONTEXT, BATCH = 512, 4, 16, 1344, 10_000, 256, 8


def our_step(attention: str, batch: torch.Tensor) -> Callable[[], float]:
    """One update of our model; returns the loss."""
    assert blocked_causal_attention
    config = ModelConfig(
        vocab_size=VOCAB, context_length=CONTEXT, d_model=D_MODEL, num_layers=LAYERS, num_heads=HEADS, d_ff=D_FF,
        attention=attention,
    )  # fmt: skip
    model = TransformerLM(config)
    optimizer = AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def step() -> float:
        loss = cross_entropy(model(batch[:, :-1]), batch[:, 1:])
        loss.backward()
        clip_gradient(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def rival_step(batch: torch.Tensor) -> Callable[[], float]:
    """One update of transformers' Llama of the same shape; returns the loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, use_cache=False,
        tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)

    def step() -> float:
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def matrix_product() -> Callable[[], float]:
    """Four float32 products of 2048 x 2048 matrices: the machine's rate at its best."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)

    def step() -> float:
        for _ in range(4):
            a @ b
        return 0.0

    return step


def main() -> None:
    """Measure, print a table, write results/training_step.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="3 repeats, no result file")
    arguments = parser.parse_args()
    repeats = 3 if arguments.quick else arguments.repeats
    torch.set_num_threads(2)
    torch.manual_seed(0)
    keep_freed_memory()  # for all rivals alike: they share the process
    batch = torch.randint(VOCAB, (BATCH, CONTEXT + 1))
    steps = {
        "transformers Llama, SDPA, torch AdamW": rival_step(batch),
        "ours, blocked attention": our_step("blocked", batch),
        "ours, plain attention": our_step("plain", batch),
        "matrix product": matrix_product(),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 2):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if repeat >= 2:  # two warm-ups
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    matrix_weights = LAYERS * (4 * D_MODEL**2 + 3 * D_MODEL * D_FF) + VOCAB * D_MODEL
    flops = BATCH * CONTEXT * (6 * matrix_weights + 12 * LAYERS * D_MODEL * CONTEXT)
    peak = 4 * 2 * 2048**3 / median["matrix product"]
    rival = median["transformers Llama, SDPA, torch AdamW"]
    rows = {}
    for name, values in seconds.items():
        if name == "matrix product":
            continue
        ordered = sorted(values)
        rows[name] = {
            "median_s": round(median[name], 4), "p10_s": round(ordered[len(ordered) // 10], 4),
            "p90_s": round(ordered[-1 - len(ordered) // 10], 4), "speed_ratio_to_rival": round(rival / median[name], 3),
            "share_of_matrix_product_rate": round(flops / median[name] / peak, 3),
            "tokens_per_s": round(BATCH * CONTEXT / median[name]),
        }  # fmt: skip
        print(f"{name:40s} {rows[name]}")
    print(f"matrix product {peak / 1e9:.0f} GFLOP/s; model FLOPs per step {flops / 1e9:.1f} G")
    if not arguments.quick:
        result = {"repeats": repeats, "gflops_matrix_product": round(peak / 1e9, 1), "rows": rows}
        write_json(
            "benchmarks/results/training_step.json",
            result | {"measured": datetime.date.today().isoformat(), "environment": describe_environment()},
        )


if __name__ == "__main__":
    main()

"""The inference engine against transformers' `generate` with the same weights, int8 against float32, and 64 requests
in one running batch against the same requests one by one.

    python benchmarks/bench_inference.py [--repeats 7] [--threads 2] [--only rivals|staggered|times] [--quick]

TinyStories shape (d_model 512, 4 layers, 16 heads, d_ff 1344, vocabulary 10,000), float32, greedy, prompts of 32
tokens, 64 new ones. The rivals alternate; medians are compared, of wall-clock and of CPU seconds: on a machine with
other work the former mean little. That transformers and the engine write the same tokens is checked first. Staggered
requests: prompts of 4 to 60 tokens, 8 to 48 new tokens, four joining per step. At last the engine alone, as
`cs336 systems inference` measures it: time to the first token, per token, and the share of the bandwidth.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.inference_benchmark import read_bandwidth, time_engine
from cs336_systems.inference.sampling import SamplingParams

D_MODEL, LAYERS, HEADS, D_FF, VOCAB, CONTEXT = 512, 4, 16, 1344, 10_000, 256


def rival_with_weights_of(model: TransformerLM) -> Any:
    """transformers' Llama that computes the same function."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, rms_norm_eps=1e-5,
        tie_word_embeddings=False, attn_implementation="sdpa", bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    halves = torch.cat([torch.arange(0, D_MODEL // HEADS, 2), torch.arange(1, D_MODEL // HEADS, 2)])
    order = (torch.arange(HEADS)[:, None] * (D_MODEL // HEADS) + halves).flatten()
    state = {"model.embed_tokens.weight": model.token_embeddings.weight, "lm_head.weight": model.lm_head.weight,
             "model.norm.weight": model.ln_final.weight}  # fmt: skip
    for i, layer in enumerate(model.layers):
        attn, ffn, name = layer.attn, layer.ffn, f"model.layers.{i}"
        state |= {
            f"{name}.self_attn.q_proj.weight": attn.q_proj.weight[order],
            f"{name}.self_attn.k_proj.weight": attn.k_proj.weight[order],
            f"{name}.self_attn.v_proj.weight": attn.v_proj.weight,
            f"{name}.self_attn.o_proj.weight": attn.output_proj.weight,
            f"{name}.mlp.gate_proj.weight": ffn.w1.weight, f"{name}.mlp.up_proj.weight": ffn.w3.weight,
            f"{name}.mlp.down_proj.weight": ffn.w2.weight, f"{name}.input_layernorm.weight": layer.ln1.weight,
            f"{name}.post_attention_layernorm.weight": layer.ln2.weight,
        }  # fmt: skip
    rival = LlamaForCausalLM(config).eval()
    rival.load_state_dict(state)
    return rival


def generate_with_rival(rival: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy continuation by transformers."""
    ids = torch.tensor(prompts)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = rival.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False)
    return out[:, ids.shape[1] :].tolist()


def generate_with(engine: Engine, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    """Greedy continuation by the engine."""
    return [c.ids for c in engine.generate(prompts, SamplingParams(max_tokens=new_tokens, temperature=0.0))]


def staggered(engine: Engine, requests: list[tuple[list[int], int]], joining: int) -> int:
    """All requests, `joining` more of them at each step; returns the tokens made."""
    waiting, numbers = list(requests), []
    while waiting or engine.has_work:
        for prompt, count in waiting[:joining]:
            numbers.append(engine.submit(prompt, SamplingParams(max_tokens=count, temperature=0.0)))
        del waiting[:joining]
        engine.step()
    return sum(len(c.ids) for number in numbers for c in engine.take_results(number))


def one_by_one(engine: Engine, requests: list[tuple[list[int], int]]) -> int:
    """The same requests, each alone."""
    return sum(len(generate_with(engine, [prompt], count)[0]) for prompt, count in requests)


def alternate(rivals: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median wall-clock and CPU seconds of each rival; they take turns, after one warm-up each."""
    wall: dict[str, list[float]] = {name: [] for name in rivals}
    cpu: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(repeats + 1):
        for name, run in rivals.items():
            started, busy = time.perf_counter(), time.process_time()
            run()
            if repeat:
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(time.process_time() - busy)
    return {name: {"wall_s": statistics.median(wall[name]), "cpu_s": statistics.median(cpu[name])} for name in rivals}


def ratios(times: dict[str, dict[str, float]], slow: str, fast: str) -> dict[str, float]:
    """How many times faster."""
    return {clock: round(times[slow][clock] / times[fast][clock], 3) for clock in ("wall_s", "cpu_s")}


SECTIONS = ("rivals", "staggered", "times")


def compare_with_rival(
    model: TransformerLM, engine: Engine, int8: Engine, *, repeats: int, new_tokens: int
) -> dict[str, Any]:
    """transformers, float32 and int8 at batch 1 and 4."""
    rival, draw, results = rival_with_weights_of(model), np.random.default_rng(0), {}
    for batch in (1, 4):
        prompts = draw.integers(VOCAB, size=(batch, 32)).tolist()
        theirs, ours = generate_with_rival(rival, prompts, new_tokens), generate_with(engine, prompts, new_tokens)
        same = sum(a == b for a, b in zip(theirs, ours, strict=True))
        times = alternate(
            {
                "transformers": lambda p=prompts: generate_with_rival(rival, p, new_tokens),
                "ours, float32": lambda p=prompts: generate_with(engine, p, new_tokens),
                "ours, int8": lambda p=prompts: generate_with(int8, p, new_tokens),
            },
            repeats,
        )
        results[f"batch {batch}"] = {
            "seconds": times, "rows_with_equal_tokens": f"{same} of {batch}",
            "speed_ratio_to_transformers": ratios(times, "transformers", "ours, float32"),
            "int8_speed_ratio_to_float32": ratios(times, "ours, float32", "ours, int8"),
        }  # fmt: skip
        print(f"batch {batch}: {results[f'batch {batch}']}", flush=True)
    return results


def compare_staggered(engine: Engine, *, count: int, rounds: int) -> dict[str, Any]:
    """Requests that join a running batch, and the same one by one."""
    draw = np.random.default_rng(1)
    requests = [
        (draw.integers(VOCAB, size=draw.integers(4, 61)).tolist(), int(draw.integers(8, 49))) for _ in range(count)
    ]
    times = alternate(
        {"one by one": lambda: one_by_one(engine, requests), "continuous": lambda: staggered(engine, requests, 4)},
        rounds,
    )
    result = {"requests": count, "seconds": times, "speed_ratio": ratios(times, "one by one", "continuous")}
    print(f"staggered requests: {result}", flush=True)
    return {"staggered requests": result}


def measure_times(engines: dict[str, Engine], *, batches: tuple[int, ...], new_tokens: int) -> dict[str, Any]:
    """Each engine alone."""
    bandwidth = read_bandwidth(torch.device("cpu"))
    shape = {"prompt_tokens": 32, "new_tokens": new_tokens, "bandwidth": bandwidth}
    times = {
        weights: [asdict(time_engine(served, batch, **shape)) for batch in batches]
        for weights, served in engines.items()
    }
    print(f"times: {times}", flush=True)
    return {"bandwidth_gb_per_s": bandwidth / 1e9, "times": times}


def main() -> None:
    """Measure, print, write results/inference.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=SECTIONS, help="one section, no result file")
    parser.add_argument("--quick", action="store_true", help="one repeat of a few tokens, no result file")
    arguments = parser.parse_args()
    repeats, new_tokens, count = (1, 8, 8) if arguments.quick else (arguments.repeats, 64, 64)
    sections = (arguments.only,) if arguments.only else SECTIONS
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(VOCAB, CONTEXT, D_MODEL, LAYERS, HEADS, D_FF)).eval()
    engines = {"float32": Engine(model), "int8": Engine(model, weights="int8")}
    results: dict[str, Any] = {}
    if "rivals" in sections:
        results |= compare_with_rival(model, *engines.values(), repeats=repeats, new_tokens=new_tokens)
    if "staggered" in sections:
        results |= compare_staggered(engines["float32"], count=count, rounds=max(1, repeats // 2))
    if "times" in sections:
        batches = (1, 4) if arguments.quick else (1, 4, 16, 64)
        results |= measure_times(engines, batches=batches, new_tokens=new_tokens)
    if not arguments.quick and not arguments.only:
        facts = {"repeats": repeats, "threads": arguments.threads, "prompt_tokens": 32, "new_tokens": new_tokens}
        write_json(
            "benchmarks/results/inference.json",
            facts | results | {"measured": datetime.date.today().isoformat(), "environment": describe_environment()},
        )


if __name__ == "__main__":
    main()

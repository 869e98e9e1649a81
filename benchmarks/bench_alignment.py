"""Does reinforcement learning raise held-out accuracy? Word problems, three seeds, a small model from scratch.

    python benchmarks/bench_alignment.py [--seeds 0 1 2] [--work runs/bench_alignment]

Each seed draws its own problems, weights, data order and samples, and goes through `cs336_alignment/pipeline.py`: SFT from
nothing, DPO, GRPO, and GRPO with a coin for a reward. Accuracy is greedy, on problems of the held-out split. Claims:

    SFT's accuracy is at most 0.80
    after GRPO the lower end of the 95 % interval lies above the upper end of SFT's
    with a coin it does not
    SFT, DPO and GRPO of a seed together take at most 90 s on two cores
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cs336_alignment.pipeline import run_pipeline
from cs336_alignment.tour_alignment import SCRATCH
from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.tokenization.bpe import train_bpe
from cs336_basics.tokenization.tokenizer import Tokenizer

VOCAB, CONTEXT, D_MODEL, LAYERS, HEADS = 400, 160, 64, 2, 4


def small_tokenizer(texts: list[str]) -> Tokenizer:
    """BPE on the worked solutions of the sft split."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text(END_OF_TEXT.join(texts), encoding="utf-8")
        vocab, merges = train_bpe(path, VOCAB, [END_OF_TEXT])
    return Tokenizer(vocab, merges, [END_OF_TEXT])


def run_seed(seed: int, folder: Path) -> dict[str, Any]:
    """All phases of one seed."""
    options = replace(SCRATCH, seed=seed)
    tokenizer = small_tokenizer([e.prompt + e.response for e in options.task.examples("sft", seed)[:2000]])
    torch.manual_seed(seed)
    model = TransformerLM(
        ModelConfig(
            vocab_size=tokenizer.vocab_size, context_length=CONTEXT, d_model=D_MODEL, num_layers=LAYERS,
            num_heads=HEADS, attention="blocked", positions="alibi", canon_width=7,
        )
    )  # fmt: skip
    results = run_pipeline(model, tokenizer, options, folder)
    phases = results["phases"]
    seconds = sum(phases[name]["seconds"] for name in ("sft", "dpo", "grpo") if name in phases)
    above = phases["grpo"]["interval"][0] > phases["sft"]["interval"][1]
    start = phases[results["start"]]
    shares = {name: round(phase["right"] / phase["questions"], 3) for name, phase in phases.items()}
    print(f"seed {seed}: {shares}, {seconds:.0f} s, GRPO above SFT: {above}", flush=True)
    return {
        "seed": seed, "phases": phases, "paired": results["paired"], "dpo": results["dpo"], "seconds": seconds,
        "parameters": model.get_num_params(), "sft_leaves_room": shares["sft"] <= 0.8, "grpo_above_sft": above,
        "coin_gains": phases["control"]["interval"][0] > start["interval"][1],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run each")
    parser.add_argument("--work", type=Path, default=Path("runs/bench_alignment"), help="where the runs are kept")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/alignment.json"))
    options = parser.parse_args()
    torch.set_num_threads(2)
    runs = [run_seed(seed, options.work / f"seed_{seed}") for seed in options.seeds]
    write_json(options.out, {
        "runs": runs, "measured": datetime.date.today().isoformat(), "environment": describe_environment(),
    })  # fmt: skip


if __name__ == "__main__":
    main()

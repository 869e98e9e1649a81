"""A step of GRPO (rollouts and update) against TRL's GRPOTrainer, and an update against a plain PyTorch loop.

    python benchmarks/bench_grpo.py [--steps 6] [--rounds 3] [--threads 2] [--only step|update] [--quick]

Both train a Llama of the same shape (that of `bench_alignment.py`) in float32 on the CPU, on policy, without a reference
model: 8 prompts of 24 to 32 tokens, 8 responses of up to 48 tokens each, one AdamW update on all 64. TRL runs `steps`
steps and ours run `steps` steps in turn, `rounds` times; the first of each is thrown away; medians of response tokens
per second are compared, by the wall clock and by CPU time, which other work on the machine disturbs less.

The plain loop is what one writes by hand: all logits, `torch.log_softmax`, `gather`, a masked mean, `torch.optim.AdamW`.
It and our trainer update on the same batch of rollouts.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from cs336_alignment.grpo import GrpoTrainer
from cs336_alignment.grpo_config import method_config
from cs336_alignment.rollout_batch import RolloutBatch, collect_groups, make_batch
from cs336_alignment.task import Example
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.training_config import OptimizerConfig

D_MODEL, LAYERS, HEADS, D_FF, VOCAB, CONTEXT = 64, 2, 4, 176, 400, 128
PROMPTS, GROUP, NEW, RATE = 8, 8, 48, 1e-4


class Words:
    """Word "w17" is token 17; 0 is the end of text."""

    vocab_size = VOCAB
    vocab = {i: f"w{i} ".encode() for i in range(VOCAB)}

    def encode(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)

    def special_id(self, token: str) -> int:
        return 0


@dataclass(frozen=True)
class EvenWords:
    """The reward is the share of even words: never equal within a group, and cheap."""

    name: str = "even-words"
    stop: tuple[str, ...] = ()
    max_tokens: int = NEW

    def examples(self, split: str, seed: int) -> list[Example]:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(24, 33, (256,), generator=generator).tolist()
        rows = [torch.randint(1, VOCAB, (length,), generator=generator).tolist() for length in lengths]
        return [Example(Words().decode(row), "") for row in rows]

    def reward(self, response: str, answer: str) -> dict[str, float]:
        words = [int(word[1:]) for word in response.split()]
        share = sum(word % 2 == 0 for word in words) / max(1, len(words))
        return {"format_reward": 1.0, "answer_reward": share, "reward": share}


def our_trainer() -> GrpoTrainer:
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(VOCAB, CONTEXT, D_MODEL, LAYERS, HEADS, D_FF, rope_pairs="halves"))
    config = method_config(
        "grpo", num_steps=1000, prompts_per_step=PROMPTS, group_size=GROUP,
        optimizer=OptimizerConfig(max_learning_rate=RATE, schedule="constant", warmup_steps=0, weight_decay=0.0),
    )  # fmt: skip
    return GrpoTrainer(model, Words(), EvenWords(), config)


@dataclass(frozen=True)
class Step:
    """What one step took."""

    tokens: float
    wall_s: float
    cpu_s: float


def between(tokens: list[float], moments: list[tuple[float, float]]) -> list[Step]:
    """Steps from the moments of their ends; the first of all has no beginning here."""
    pairs = zip(moments, moments[1:], strict=False)
    return [Step(count, b[0] - a[0], b[1] - a[1]) for count, (a, b) in zip(tokens[1:], pairs, strict=False)]


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def our_steps(trainer: GrpoTrainer, steps: int) -> list[Step]:
    """All steps but the first."""
    tokens, ends = [], []
    for _ in range(steps + 1):
        tokens.append(trainer.step()["response_tokens"])
        ends.append(now())
    return between(tokens, ends)


def trl_steps(steps: int) -> list[Step]:
    """The same of TRL, timed between the ends of steps."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w1"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", pad_token="w0", padding_side="left")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=D_MODEL, intermediate_size=D_FF, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=CONTEXT,
            tie_word_embeddings=False, attn_implementation="sdpa", pad_token_id=0, bos_token_id=None, eos_token_id=0,
        )
    )  # fmt: skip
    task, tokens, ends = EvenWords(), [], []

    def reward(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [task.reward(text, "")["reward"] for text in completions]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(now())

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP,
            max_completion_length=NEW, max_steps=steps + 1, learning_rate=RATE, beta=0.0, temperature=1.0, top_k=0,
            use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            gradient_checkpointing=False, num_iterations=1, seed=0,
        )  # fmt: skip
        data = Dataset.from_dict({"prompt": [example.prompt for example in task.examples("rl", 0)]})
        trainer = GRPOTrainer(
            model, reward, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[Clock()]
        )
        trainer.train()
    return between(tokens, ends)


def plain_update(model: TransformerLM, optimizer: torch.optim.Optimizer, batch: RolloutBatch) -> None:
    """One update as it is written by hand."""
    mask = batch.tokens["response_mask"]
    log_probs = torch.log_softmax(model(batch.tokens["input_ids"]), dim=-1)
    chosen = log_probs.gather(-1, batch.tokens["labels"].unsqueeze(-1)).squeeze(-1)
    losses = -batch.advantages[:, None] * chosen * mask
    (losses.sum(dim=1) / mask.sum(dim=1)).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def update_steps(trainer: GrpoTrainer, repeats: int) -> tuple[list[Step], list[Step]]:
    """Our updates and the plain ones, in turn, on one batch."""
    groups = collect_groups(trainer.sampler, trainer.task, trainer.prompts, trainer.config, eos_id=0, step=0)
    batch = make_batch(groups, trainer.config, trainer.text, trainer.device)
    tokens = float(batch.tokens["response_mask"].sum())
    plain = our_trainer().model
    assert isinstance(plain, TransformerLM)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=RATE, weight_decay=0.0)
    found: tuple[list[Step], list[Step]] = ([], [])
    for repeat in range(repeats + 1):
        for place, update in enumerate(
            (lambda: trainer.train_on(batch), lambda: plain_update(plain, optimizer, batch))
        ):
            before = now()
            update()
            after = now()
            if repeat:
                found[place].append(Step(tokens, after[0] - before[0], after[1] - before[1]))
    return found


def medians(steps: list[Step]) -> dict[str, float]:
    """Tokens per second by both clocks, and seconds per step."""
    return {
        "tokens_per_second": statistics.median(s.tokens / s.wall_s for s in steps),
        "tokens_per_cpu_second": statistics.median(s.tokens / s.cpu_s for s in steps),
        "seconds": statistics.median(s.wall_s for s in steps), "cpu_seconds": statistics.median(s.cpu_s for s in steps),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--only", choices=("step", "update"), help="one comparison; nothing is written")
    parser.add_argument("--quick", action="store_true", help="one round of three steps; nothing is written")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/grpo.json"))
    options = parser.parse_args()
    steps, rounds = (3, 1) if options.quick else (options.steps, options.rounds)
    torch.set_num_threads(options.threads)
    trainer, found = our_trainer(), {}
    if options.only != "update":
        ours: list[Step] = []
        theirs: list[Step] = []
        for _ in range(rounds):
            theirs += trl_steps(steps)
            ours += our_steps(trainer, steps)
        found |= {"cs336": medians(ours), "trl": medians(theirs)}
    if options.only != "step":
        mine, plain = update_steps(trainer, steps * rounds)
        found |= {"update, cs336": medians(mine), "update, plain loop": medians(plain)}
    for name, values in found.items():
        print(f"{name:20}", "  ".join(f"{key} {value:,.4g}" for key, value in values.items()), flush=True)
    if options.only == "update":
        return
    import transformers
    import trl

    ratios = {key: found["cs336"][key] / found["trl"][key] for key in ("tokens_per_second", "tokens_per_cpu_second")}
    print("times as fast as TRL:", ratios, flush=True)
    if not options.quick and not options.only:
        write_json(options.out, {
            **found, "times_as_fast": ratios, "threads": options.threads,
            "versions": {"trl": trl.__version__, "transformers": transformers.__version__},
            "measured": datetime.date.today().isoformat(), "environment": describe_environment(),
        })  # fmt: skip


if __name__ == "__main__":
    main()

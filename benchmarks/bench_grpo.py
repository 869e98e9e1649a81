"""A step of GRPO (rollouts and update) against TRL's GRPOTrainer, and an update against a plain PyTorch loop.

    python benchmarks/bench_grpo.py [--steps 6] [--rounds 3] [--quick]

Both train a Llama of the same shape in float32 on the CPU, on policy, without a reference model: 8 prompts of 24 to 32
tokens, 8 responses of up to 48 tokens each, one AdamW update on all 64. TRL runs `steps` steps and ours run `steps`
steps in turn, `rounds` times; the first of each is thrown away; medians of response tokens per second are compared.

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

D_MODEL, LAYERS, HEADS, D_FF, VOCAB, CONTEXT = 128, 4, 4, 344, 1024, 128
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


def our_rates(trainer: GrpoTrainer, steps: int) -> list[float]:
    """Response tokens per second of each step but the first."""
    return [trainer.step()["tokens_per_second"] for _ in range(steps + 1)][1:]


def trl_rates(steps: int) -> list[float]:
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
            ends.append(time.perf_counter())

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
    seconds = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    return [count / second for count, second in zip(tokens[1:], seconds, strict=False)]


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


def update_seconds(trainer: GrpoTrainer, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of our updates and of the plain ones, in turn, on one batch."""
    groups = collect_groups(trainer.sampler, trainer.task, trainer.prompts, trainer.config, eos_id=0, step=0)
    batch = make_batch(groups, trainer.config, trainer.text, trainer.device)
    plain = our_trainer().model
    assert isinstance(plain, TransformerLM)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=RATE, weight_decay=0.0)
    found: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for place, update in enumerate(
            (lambda: trainer.train_on(batch), lambda: plain_update(plain, optimizer, batch))
        ):
            started = time.perf_counter()
            update()
            if repeat:
                found[place].append(time.perf_counter() - started)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6, help="steps per round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds")
    parser.add_argument("--quick", action="store_true", help="one round of two steps")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/grpo.json"))
    options = parser.parse_args()
    steps, rounds = (2, 1) if options.quick else (options.steps, options.rounds)
    torch.set_num_threads(2)
    trainer, ours, theirs = our_trainer(), [], []
    for number in range(rounds):
        theirs += trl_rates(steps)
        ours += our_rates(trainer, steps)
        print(f"round {number + 1}: TRL {statistics.median(theirs):,.0f}, ours {statistics.median(ours):,.0f} tokens/s")
    mine, plain = update_seconds(trainer, steps * rounds)
    import transformers
    import trl

    result = {
        "tokens_per_second": {"cs336": statistics.median(ours), "trl": statistics.median(theirs)},
        "all": {"cs336": ours, "trl": theirs},
        "times_as_fast": statistics.median(ours) / statistics.median(theirs),
        "seconds_per_update": {"cs336": statistics.median(mine), "plain loop": statistics.median(plain)},
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__},
        "date": datetime.date.today().isoformat(), "environment": describe_environment(),
    }  # fmt: skip
    print(f"{result['times_as_fast']:.1f} times as fast as TRL; an update takes {statistics.median(mine):.3f} s, "
          f"the plain loop's {statistics.median(plain):.3f} s")  # fmt: skip
    if not options.quick:
        write_json(options.out, result)


if __name__ == "__main__":
    main()

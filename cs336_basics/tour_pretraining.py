"""The tour's stage of pretraining: a small Transformer learns the stories, and we can say how well, exactly.

    loss against the entropy floor     no model can be better in expectation than the grammar that wrote the text
    cloze questions                    does it track who is where and holds what? before and after training
    its own stories                    the grammar reads them: could it have written this one?

Handout: training_together, decoding, generate. Read next: `training.py`, `evaluation.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.corpora.stories import ClozeQuestion, log_probability
from cs336_basics.evaluation import cloze_accuracy
from cs336_basics.generation import generate, generate_text
from cs336_basics.model import ModelConfig, TransformerLM
from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_basics.runs.intervals import wilson_interval
from cs336_basics.runs.plots import plot_bars, plot_loss_curves
from cs336_basics.runs.report import Block, KeyFigure, KeyFigures, Paragraph, Picture, Preformatted, Section
from cs336_basics.runs.stage import Stage
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.tour_tokenizers import (
    STORIES_CLOZE,
    STORIES_TEXT,
    STORIES_TOKENIZER,
    TRAIN_TOKENS,
    VALID_TOKENS,
)
from cs336_basics.training import choose_device, train
from cs336_basics.training_config import OptimizerConfig, TrainConfig

FOLDER = "pretraining"
RESULTS = f"{FOLDER}/results.json"
CHANCE = 0.25  # four candidates per question


@dataclass(frozen=True)
class PretrainingStageOptions:
    """Shape of the model, length of its training, and what is expected of it."""

    d_model: int
    num_layers: int
    num_heads: int
    context_length: int
    batch_size: int
    num_steps: int
    max_learning_rate: float
    warmup_steps: int
    num_samples: int
    """stories that the trained model writes for the grammar to read"""
    max_above_floor: float | None
    """target: loss at most this share above the entropy floor; None for no target"""
    min_cloze_accuracy: float | None
    """target: share of right answers; None for no target"""
    seed: int
    device: str


def pretraining_stage(options: PretrainingStageOptions) -> Stage:
    """Train on the stories of the stage before, then question the model."""
    tokenizer = tuple(f"{STORIES_TOKENIZER}/{file}" for file in ("vocab.json", "merges.txt", "special_tokens.json"))
    tokens = (TRAIN_TOKENS, f"{TRAIN_TOKENS}.json", VALID_TOKENS, f"{VALID_TOKENS}.json")
    files = ("log.jsonl", "summary.json", "model.pt", "model_config.json", "results.json")
    return Stage(
        name=FOLDER, title="pretraining", options=options, inputs=(STORIES_TEXT, STORIES_CLOZE, *tokenizer, *tokens),
        outputs=tuple(f"{FOLDER}/{file}" for file in files), run=_run, section=_section,
    )  # fmt: skip


def train_config(directory: Path, options: PretrainingStageOptions, vocab_size: int) -> TrainConfig:
    """The training run of the tour; paths are absolute, so that it resumes from any working directory."""
    root = directory.resolve()
    return TrainConfig(
        model=ModelConfig(
            vocab_size=vocab_size, context_length=options.context_length, d_model=options.d_model,
            num_layers=options.num_layers, num_heads=options.num_heads, attention="blocked", positions="alibi",
            canon_width=7,
        ),
        optimizer=OptimizerConfig(
            name="muon", schedule="wsd", max_learning_rate=options.max_learning_rate, min_learning_rate=0.0,
            warmup_steps=options.warmup_steps, decay_steps=options.num_steps // 2, betas=(0.9, 0.98),
        ),
        train_tokens=root / TRAIN_TOKENS, valid_tokens=root / VALID_TOKENS, tokenizer=root / STORIES_TOKENIZER,
        num_steps=options.num_steps, batch_size=options.batch_size, seed=options.seed, device=options.device,
        windows="documents", eval_every=max(1, options.num_steps // 8), eval_by="documents",
        checkpoint_every=max(1, options.num_steps // 20),
    )  # fmt: skip


def _run(directory: Path, options: PretrainingStageOptions) -> None:
    tokenizer = Tokenizer.load(directory / STORIES_TOKENIZER)
    config = train_config(directory, options, tokenizer.vocab_size)
    summary = train(config, directory / FOLDER)
    device = choose_device(options.device)
    trained = TransformerLM.from_pretrained(directory / FOLDER).to(device)
    questions = read_questions(directory / STORIES_CLOZE)
    results = {
        "cloze": {
            "before": _cloze_counts(_untrained_model(config).to(device), tokenizer, questions),
            "after": _cloze_counts(trained, tokenizer, questions),
        },
        "example": asdict(questions[0]),
        "stories": _judge_stories(trained, tokenizer, directory / STORIES_TEXT, options),
        "greedy": generate_text(trained, tokenizer, "", options.context_length - 1, temperature=0.0),
        "tokens_per_second": summary["tokens"] / summary["seconds"],
        "targets": {"above_floor": options.max_above_floor, "cloze": options.min_cloze_accuracy},
    }
    write_json(directory / RESULTS, results)


def _untrained_model(config: TrainConfig) -> TransformerLM:
    """The model as training begins with it."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return TransformerLM(config.model)


def read_questions(path: Path) -> list[ClozeQuestion]:
    """The cloze questions of `write_stories`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    fields = [json.loads(line) for line in lines]
    return [ClozeQuestion(f["prompt"], f["answer"], tuple(f["candidates"]), f["kind"]) for f in fields]


def _cloze_counts(
    model: TransformerLM, tokenizer: Tokenizer, questions: Sequence[ClozeQuestion]
) -> dict[str, tuple[int, int]]:
    """Per kind: right answers, answers in all."""
    right = cloze_accuracy(
        model, tokenizer.encode, questions, end_of_text=tokenizer.special_id(END_OF_TEXT),
        context_length=model.config.context_length, device=next(model.parameters()).device,
    )  # fmt: skip
    total = Counter(question.kind for question in questions)
    correct = Counter(question.kind for question, is_right in zip(questions, right, strict=True) if is_right)
    return {kind: (correct[kind], total[kind]) for kind in total}


def _judge_stories(
    model: TransformerLM, tokenizer: Tokenizer, train_text: Path, options: PretrainingStageOptions
) -> dict[str, Any]:
    """Let the model write stories at temperature 1; the grammar says of each whether it could be its own."""
    end, device = tokenizer.special_id(END_OF_TEXT), next(model.parameters()).device
    rows = generate(
        model, torch.full((options.num_samples, 1), end, device=device), options.context_length - 1, stop_ids=(end,),
        generator=torch.Generator(device).manual_seed(options.seed),
    )  # fmt: skip
    texts = [tokenizer.decode(row) for row in rows]
    verdicts = [grammar_verdict(text) for text in texts]
    known = set(train_text.read_text(encoding="utf-8").split(END_OF_TEXT))
    new = sum(not verdict and text not in known for text, verdict in zip(texts, verdicts, strict=True))
    samples = [{"text": text, "verdict": verdict} for text, verdict in zip(texts, verdicts, strict=True)]
    return {"written": len(texts), "accepted": verdicts.count(""), "accepted_and_new": new, "samples": samples}


def grammar_verdict(text: str) -> str:
    """Empty when the grammar of the stories can produce `text`, else where it leaves the grammar."""
    try:
        log_probability(text)
    except ValueError as error:
        return str(error).split(";")[0].removeprefix("not a story (probability 0): ")
    return ""


_EXPLANATION = """
The stories come from a grammar that knows the exact probability of each text. The mean of -log p over the validation
stories is the **entropy floor**: the loss of a model that knows the grammar perfectly, and in expectation no model can
be below it. So we know not only how far the loss has come down, but how much is left. About half of all sentences can
be predicted only by keeping track of who is where and who holds what; a model that learns the words alone stays well
above the floor.
"""


def _section(directory: Path) -> Section:
    results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
    run = RunDirectory(directory / FOLDER)
    summary = run.summary()
    curves = plot_loss_curves(run.read_log(), floor=summary["entropy_floor"])
    alt = f"Loss over steps, from {run.read_log()[0]['train_loss']:.2f} to {summary['validation_loss']:.3f}"
    return Section(
        "Pretraining",
        [
            Paragraph(_introduction(summary, run.config())),
            KeyFigures(_key_figures(summary, results)),
            Picture(curves, "pretraining-loss", f"{alt}; the floor is {summary['entropy_floor']:.3f}"),
            Paragraph(_EXPLANATION),
            Section("Questions about the state of the world", _cloze_blocks(results)),
            Section("Stories of its own", _story_blocks(results)),
        ],
    )


def _introduction(summary: dict[str, Any], config: dict[str, Any]) -> str:
    model = config["model"]
    return (
        f"A Transformer (num_layers {model['num_layers']}, d_model {model['d_model']}, num_heads {model['num_heads']}, "
        f"vocabulary {model['vocab_size']}) with ALiBi for positions and a short convolution before each attention "
        f"(Canon layer) read {summary['tokens']:,} tokens of stories in {summary['steps']:,} steps, which took "
        f"{summary['seconds']:.0f} s on {summary['device']}. Both help it to bind a name to a place early; with rotary "
        "positions alone this comes late (`cs336_basics/variants/`)."
    )


def _key_figures(summary: dict[str, Any], results: dict[str, Any]) -> list[KeyFigure]:
    targets, above = results["targets"], summary["above_floor"]
    accuracy = {when: _share(_total(results["cloze"][when])) for when in ("before", "after")}
    stories = results["stories"]
    most, least = targets["above_floor"], targets["cloze"]
    return [
        KeyFigure("validation loss, nats per token", f"{summary['validation_loss']:.3f}"),
        KeyFigure("entropy floor", f"{summary['entropy_floor']:.3f}"),
        KeyFigure(
            "above the floor", f"{above:.1%}", *(() if most is None else (f"at most {most:.0%}", above <= most))
        ),
        KeyFigure(
            f"cloze accuracy (guessing: {CHANCE:.0%})", f"{accuracy['after']:.1%}",
            *(() if least is None else (f"at least {least:.0%}", accuracy["after"] >= least)),
        ),
        KeyFigure("cloze accuracy, untrained", f"{accuracy['before']:.1%}"),
        KeyFigure("own stories that the grammar accepts", f"{stories['accepted']} of {stories['written']}"),
        KeyFigure("parameters", f"{summary['parameters']:,}"),
        KeyFigure("tokens per second", f"{results['tokens_per_second']:,.0f}"),
    ]  # fmt: skip


def _cloze_blocks(results: dict[str, Any]) -> list[Block]:
    kinds = list(results["cloze"]["after"])
    counts = {when: [tuple(results["cloze"][when][kind]) for kind in kinds] for when in ("before", "after")}
    right, total = _total(results["cloze"]["after"])
    low, high = wilson_interval(right, total)
    text = (
        f"Each question stops a fresh story before a word that follows from its state and offers four words that all "
        f"fit the sentence. After training {right} of {total} answers are right (95 % interval {low:.0%} to {high:.0%})"
        f"; guessing gets {CHANCE:.0%}."
    )
    alt = "Accuracy per kind of question before and after training: " + "; ".join(
        f"{kind} {_share(before):.0%} to {_share(after):.0%}"
        for kind, before, after in zip(kinds, counts["before"], counts["after"], strict=True)
    )
    bars = plot_bars([kind.replace("_", " ") for kind in kinds], counts, chance=CHANCE)
    question = results["example"]
    example = f"{question['prompt']} ...?\n\n" + "\n".join(
        f"{candidate}{'   <- right' if candidate == question['answer'] else ''}" for candidate in question["candidates"]
    )
    return [Paragraph(text), Picture(bars, "pretraining-cloze", alt), Preformatted(example, "One of the questions.")]


def _story_blocks(results: dict[str, Any]) -> list[Block]:
    stories, samples = results["stories"], results["stories"]["samples"]
    low, high = wilson_interval(stories["accepted"], stories["written"])
    text = (
        f"The model wrote {stories['written']} stories at temperature 1. The grammar accepts "
        f"**{stories['accepted']}** of them as stories that it could have written itself, to the last letter (95 % "
        f"interval {low:.0%} to {high:.0%}); {stories['accepted_and_new']} of these are not in the training text."
    )
    accepted = [sample for sample in samples if not sample["verdict"]]
    refused = [sample for sample in samples if sample["verdict"]]
    shown = [*accepted[:2], *refused[:1]] or samples[:1]
    greedy = {"text": results["greedy"], "verdict": grammar_verdict(results["greedy"])}
    return [
        Paragraph(text),
        *(_sample(sample, "Temperature 1") for sample in shown),
        _sample(greedy, "Temperature 0, the likeliest token each time"),
    ]


def _sample(sample: dict[str, str], how: str) -> Preformatted:
    """A story and what the grammar says of it."""
    verdict = f"refused: {sample['verdict']}" if sample["verdict"] else "accepted by the grammar"
    return Preformatted(sample["text"].strip(), f"{how}; {verdict}.")


def _total(counts: dict[str, Any]) -> tuple[int, int]:
    """Right answers and answers over all kinds."""
    return sum(right for right, _ in counts.values()), sum(total for _, total in counts.values())


def _share(count: Sequence[int]) -> float:
    return count[0] / count[1]

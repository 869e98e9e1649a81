"""The verbs of training in assignment 5: alignment sft, dpo, grpo, ppo, expert-iteration, reward-model.

All take a model folder, a task and --out; a killed run goes on when the command is given again. torch is imported
inside, so that --help is quick. Read next: `training_run.py`; `evaluation/cli.py` and `chat/cli.py` for the other verbs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cs336_basics.runs.command_line import print_result

if TYPE_CHECKING:
    from cs336_alignment.rollouts import Sampler
    from cs336_alignment.task import Task

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Inputs:
    """What every verb takes."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """run directory of `cs336 train` or of another verb here, a Hugging Face folder, or a name on its hub"""
    out: Path
    """directory of this run; an interrupted run there goes on"""
    task: str = "word-problems"
    """arithmetic, word-problems, sorting, countdown, gsm8k, or questions (files of your own)"""
    task_settings: tuple[str, ...] = ()
    """fields of the task, such as max_steps=3 or folder=data/gsm8k"""
    prompt: str | None = None
    """r1_zero, r1_zero_three_shot_gsm8k or question_only: pose the problems in this prompt, with its reward"""
    tokenizer: Path | None = None
    """folder of the tokenizer; by default the one that the model names"""
    sampler: Literal["auto", "lockstep", "engine", "huggingface", "vllm"] = "auto"
    """what samples: lockstep or huggingface by the kind of the model, or another by name"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    json: Switch = False
    """print the summary as JSON"""


def sft(argv: list[str]) -> None:
    """`cs336 alignment sft`."""
    from cs336_alignment.sft import SftConfig, SftTrainer

    about = "Imitate worked solutions: the sft split of a task, or prompt and response pairs of a file."
    data = ("data", Path | None, None, "JSON Lines with prompt and response; by default the task's sft split")
    o = _parse(argv, "sft", SftConfig, about, "runs/tour/pretraining --out runs/sft --num-steps 200", data)
    policy = _Policy(o)
    if o.data is None:
        pairs = policy.task.examples("sft", o.run.seed)
    else:
        from cs336_alignment.jsonl import read_json_lines
        from cs336_alignment.task import Example

        pairs = [Example(item["prompt"], "", item["response"])
                 for _, item in read_json_lines(o.data, required=("prompt", "response"))]  # fmt: skip
    policy.run(SftTrainer(policy.model, policy.tokenizer, pairs, o.run), "sft")


def dpo(argv: list[str]) -> None:
    """`cs336 alignment dpo`."""
    from cs336_alignment.preference_training import DpoConfig, DpoTrainer
    from cs336_alignment.sft import clone_model

    about = "Train on pairs of a better and a worse response: sampled from the model itself, or of HH files."
    o = _parse(argv, "dpo", DpoConfig, about, "runs/sft --out runs/dpo --nll-coefficient 0.1", *_PAIR_OPTIONS)
    policy = _Policy(o)
    reference = clone_model(policy.model)
    pairs, validation = policy.pairs()
    trainer = DpoTrainer(policy.model, reference, policy.tokenizer, pairs, o.run, validation=validation)
    policy.run(trainer, "dpo", num_pairs=len(pairs))


def reward_model(argv: list[str]) -> None:
    """`cs336 alignment reward-model`."""
    from cs336_alignment.preference_training import DpoConfig
    from cs336_alignment.reward_model import RewardTrainer

    about = "Learn a score from pairs of a better and a worse response; of the options below, beta to nll are not used."
    o = _parse(argv, "reward-model", DpoConfig, about, "runs/sft --out runs/reward-model", *_PAIR_OPTIONS)
    policy = _Policy(o)
    pairs, validation = policy.pairs()
    trainer = RewardTrainer(policy.model, policy.tokenizer, pairs, o.run, validation=validation)
    policy.run(trainer, "reward model", held_out=False, num_pairs=len(pairs))


def grpo(argv: list[str]) -> None:
    """`cs336 alignment grpo`: the settings of --method become flags before the given ones, which override them."""
    from cs336_alignment.grpo import GrpoTrainer
    from cs336_alignment.grpo_config import METHODS, GrpoConfig
    from cs336_alignment.rollout_batch import describe_groups
    from cs336_alignment.sft import clone_model

    about = "Reinforcement learning with verifiable rewards: GRPO and its relatives."
    method = ("method", Literal[tuple(METHODS)] | None, None, "settings of a named method; other flags go before it")
    example = "runs/sft --out runs/grpo --method dr_grpo --num-steps 100"
    o = _parse(_with_method(argv, METHODS), "grpo", GrpoConfig, about, example, method)
    policy = _Policy(o)
    reference = clone_model(policy.model) if o.run.kl_coefficient > 0 else None
    trainer = GrpoTrainer(
        policy.model, policy.tokenizer, policy.task, o.run, sampler=policy.sampler, reference=reference
    )
    policy.run(trainer, "grpo", transcripts=lambda: describe_groups(trainer.last_groups, trainer.steps_done))


def ppo(argv: list[str]) -> None:
    """`cs336 alignment ppo`."""
    from cs336_alignment.ppo import PpoConfig, PpoTrainer
    from cs336_alignment.rollout_batch import describe_groups
    from cs336_alignment.sft import clone_model

    about = "Reinforcement learning with a value function."
    o = _parse(argv, "ppo", PpoConfig, about, "runs/sft --out runs/ppo --num-steps 100")
    policy = _Policy(o)
    reference = clone_model(policy.model) if o.run.kl_coefficient > 0 else None
    trainer = PpoTrainer(
        policy.model, policy.tokenizer, policy.task, o.run, sampler=policy.sampler, reference=reference
    )
    policy.run(trainer, "ppo", transcripts=lambda: describe_groups(trainer.last_groups, trainer.steps_done))


def expert_iteration(argv: list[str]) -> None:
    """`cs336 alignment expert-iteration`."""
    from cs336_alignment.expert_iteration import ExpertIterationConfig, ExpertIterationTrainer

    about = "Sample, keep what is right, imitate it, repeat."
    o = _parse(argv, "expert-iteration", ExpertIterationConfig, about, "runs/sft --out runs/experts --num-steps 5")
    policy = _Policy(o)
    trainer = ExpertIterationTrainer(policy.model, policy.tokenizer, policy.task, o.run, sampler=policy.sampler)
    policy.run(trainer, "expert iteration")


Option = tuple[str, Any, Any, str]
_PAIR_OPTIONS: tuple[Option, ...] = (
    ("hh", tuple[Path, ...], (), "files of Anthropic's HH data instead of sampled pairs"),
    ("samples", int, 8, "responses per problem of the preference split, of which a right and a wrong one make a pair"),
    ("validation_pairs", int, 200, "pairs kept apart to measure preference accuracy"),
)


def _parse(argv: list[str], verb: str, config: type, about: str, example: str, *options: Option) -> Any:
    """Parse into `Inputs`, the config under `run`, and further options."""
    added: list[Any] = [
        (name, Annotated[kind, tyro.conf.arg(help=text)], dataclasses.field(default=default))
        for name, kind, default, text in options
    ]
    run = ("run", Annotated[config, tyro.conf.arg(name="")], dataclasses.field(default_factory=config))
    options_class = dataclasses.make_dataclass("Options", [*added, run], bases=(Inputs,), frozen=True)
    text = f"{about}\n\nExample: cs336 alignment {verb} {example}"
    return tyro.cli(options_class, args=argv, prog=f"cs336 alignment {verb}", description=text)


def _with_method(argv: list[str], methods: dict[str, dict[str, Any]]) -> list[str]:
    """The arguments with the method's settings as flags before them."""
    words = [word for argument in argv for word in argument.split("=", 1)]
    name = words[words.index("--method") + 1] if "--method" in words[:-1] else None
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in methods.get(name or "", {}).items()]
    return [*flags, *argv]


class _Policy:
    """Model, tokenizer, task and sampler of a command, loaded."""

    def __init__(self, options: Any):
        from cs336_alignment.policy_files import load_policy

        self.options = options
        self.task: Task = find_task(options.task, options.task_settings, options.prompt)
        self.model, self.tokenizer = load_policy(options.model, options.tokenizer, device=options.device)
        self.sampler = _sampler(options, self.model, self.tokenizer)

    def pairs(self) -> tuple[list[Any], list[Any]]:
        """Preference pairs to train on, and those kept apart."""
        from cs336_alignment.preference_training import read_hh, sample_pairs
        from cs336_alignment.text_tokenizer import TextTokenizer

        o = self.options
        if o.hh:
            found = read_hh(o.hh)
        else:
            examples, eos = self.task.examples("preference", o.run.seed), TextTokenizer(self.tokenizer).eos_id
            found = sample_pairs(self.sampler, self.task, examples, eos, samples=o.samples, seed=o.run.seed)
        if len(found) <= o.validation_pairs:
            raise ValueError(
                f"there are {len(found)} pairs, no more than the {o.validation_pairs} to be kept apart; lower "
                "--validation-pairs or raise --samples"
            )
        return found[o.validation_pairs :], found[: o.validation_pairs]

    def run(
        self, trainer: Any, kind: str, *, held_out: bool = True, transcripts: Callable[[], Any] | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        """Train in the run directory and print the summary."""
        from cs336_alignment.text_tokenizer import TextTokenizer
        from cs336_alignment.training_run import HeldOut, run_training

        o, judge = self.options, None
        if held_out:
            questions = self.task.examples("test", o.run.seed)
            judge = HeldOut(self.task, questions, self.sampler, TextTokenizer(self.tokenizer).eos_id)
        stored = dataclasses.replace(o, json=False)
        summary = run_training(
            trainer, o.out, kind=kind, config=stored, held_out=judge, tokenizer=self.tokenizer, transcripts=transcripts
        )
        print_result({**more, **_flat(summary), "run": str(o.out)}, as_json=o.json)


def find_task(name: str, settings: tuple[str, ...] = (), prompt: str | None = None) -> Task:
    """A task by name, with settings such as "max_steps=3", posed in a prompt if one is named.

    Raises:
        ValueError: an unknown name or setting.
    """
    from cs336_alignment.prompted_task import PromptedTask, QuestionFiles
    from cs336_alignment.tasks.catalogue import TASKS
    from cs336_basics.runs.config import load_config

    tasks: dict[str, Any] = {**TASKS, QuestionFiles.name: QuestionFiles}
    if name not in tasks:
        raise ValueError(f"task must be one of {', '.join(sorted(tasks))}; got {name!r}")
    task = load_config(tasks[name], None, overrides=settings)
    return task if prompt is None else PromptedTask(task, prompt, max_tokens=max(task.max_tokens, 512))


def _sampler(options: Any, model: Any, tokenizer: Any) -> Sampler:
    from cs336_alignment.grpo import make_sampler
    from cs336_alignment.rollouts import EngineSampler

    if options.sampler == "engine":
        return EngineSampler(model, tokenizer)
    if options.sampler == "vllm":
        from cs336_alignment.vllm_sampler import VllmSampler

        return VllmSampler(options.model, tokenizer)
    ours = hasattr(model, "new_cache")
    if options.sampler in ("lockstep", "huggingface") and ours != (options.sampler == "lockstep"):
        raise ValueError(f"--sampler {options.sampler} does not fit a {type(model).__name__}; leave it at auto")
    return make_sampler(model, tokenizer)


def _flat(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary as one level, intervals as text."""
    flat = {**{k: v for k, v in summary.items() if k != "last"}, **summary.get("last", {})}
    return {k: f"{v[0]:.3f} to {v[1]:.3f}" if isinstance(v, list) else v for k, v in flat.items()}

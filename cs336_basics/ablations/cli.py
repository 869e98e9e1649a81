"""The verb `cs336 basics ablate`. Read next: `stages.py`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from cs336_basics.runs.command_line import parse, print_result

if TYPE_CHECKING:
    from cs336_basics.ablations.stages import AblationConfig

Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class Ablate:
    """Train the course's ablations beside one baseline and write a report; called again, it goes on where it was.

    Trains some fifteen small models; --quick makes them smaller still. Ablations: norm, positions, feed_forward, parallel,
    learning_rate, batch_size.
    """

    out: Path | None = None
    """directory of the runs and the report; runs/ablations by default, runs/ablations-quick with --quick"""
    quick: Switch = False
    """smaller model, fewer steps"""
    ablations: tuple[str, ...] = ()
    """which to run; all by default"""
    seeds: int = 1
    """runs per variant; the report gives mean and standard deviation"""
    corpus: Path | None = None
    """folder with train.txt and valid.txt (documents ended by <|endoftext|>) in place of stories"""
    vocab_size: int | None = None
    """tokens of the tokenizer that is trained on stories or --corpus; model.vocab_size by default"""
    config: str | None = None
    """TOML file of a baseline as `cs336 train --config` takes it, token files included"""
    overrides: Annotated[tuple[str, ...], tyro.conf.arg(name="set"), tyro.conf.UseAppendAction] = ()
    """change the baseline, such as --set model.d_model=192; may be repeated"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    json: Switch = False
    """print the result as JSON"""


def ablate(argv: list[str]) -> None:
    """`cs336 basics ablate`."""
    o = parse(Ablate, argv, "basics ablate", example="basics ablate --ablations norm positions --seeds 3")
    from cs336_basics.ablations.stages import run_ablations

    out = o.out or Path("runs/ablations-quick" if o.quick else "runs/ablations")
    report, summaries, _ = run_ablations(ablation_config(o), out)
    if o.json:
        print(json.dumps({"report": str(report), "variants": [dataclasses.asdict(s) for s in summaries]}, indent=2))
        return
    values: dict[str, Any] = {}
    for s in summaries:
        difference = "" if s.difference is None else f" ({s.difference:+.4f})"
        values[s.label] = f"diverged at step {s.diverged_at}" if s.loss is None else f"{s.loss:.4f}{difference}"
    print_result({**values, "report": str(report)}, as_json=False)


def ablation_config(options: Ablate) -> AblationConfig:
    """What the arguments ask for.

    Raises:
        ValueError: contradictory options, an unknown ablation, or what the TOML file and --set make wrong.
        FileNotFoundError: no such config, or a corpus without its files.
    """
    from cs336_basics.ablations.corpus import CorpusOptions
    from cs336_basics.ablations.stages import AblationConfig
    from cs336_basics.cli import find_config
    from cs336_basics.runs.config import load_config
    from cs336_basics.training_config import TrainConfig

    if options.config is not None and (options.corpus is not None or options.vocab_size is not None):
        raise ValueError("--config names its own token files; drop --corpus and --vocab-size, or --config")
    sets = list(options.overrides)
    if options.vocab_size is not None:
        sets.append(f"model.vocab_size={options.vocab_size}")
    name = options.config or ("ablations-quick" if options.quick else "ablations")
    train = load_config(TrainConfig, find_config(name), overrides=sets)
    corpus = None
    if options.config is None and not any(s.startswith("train_tokens") for s in sets):
        stories = {"num_train": 2_500, "num_valid": 60} if options.quick else {}
        corpus = CorpusOptions(train.model.vocab_size, _checked_folder(options.corpus), **stories)
    return AblationConfig(train, corpus, options.ablations, options.seeds, options.device)


def _checked_folder(folder: Path | None) -> Path | None:
    """The folder, if its two files are there."""
    if folder is None:
        return None
    for name in ("train.txt", "valid.txt"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {folder / name}; --corpus needs a folder with train.txt and valid.txt")
    return folder.resolve()

"""The verbs of assignment 1 that need a model: train, generate, evaluate, model info.

Each parses its arguments, calls the library and prints; torch is imported inside, so that --help is quick. Errors are
raised; `cs336_course/cli.py` turns them into one line and an exit code. The verbs of corpora and tokenizers are in
`corpora/cli.py` and `tokenization/cli.py`.

Read next: `training.py`, `generation.py`, `evaluation.py`, `accounting.py`, `huggingface/cli.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import re
import sys
import tomllib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cs336_basics.corpora.corpus_files import END_OF_TEXT, known_nats
from cs336_basics.runs.command_line import parse, print_result
from cs336_basics.tokenization.text_stream import decode_stream

if TYPE_CHECKING:
    from cs336_basics.model import TransformerLM
    from cs336_basics.tokenization.tokenizer import Tokenizer
    from cs336_basics.training_config import TrainConfig
    from cs336_basics.training_strategy import Strategy

CONFIG_FOLDER = Path(__file__).parent / "configs"
ModelFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


OpenStrategy = Callable[[Any, "TrainConfig"], contextlib.AbstractContextManager["Strategy"]]


def train(argv: list[str], *, parallel: type | None = None, open_strategy: OpenStrategy | None = None) -> None:
    """`cs336 train`: the values of a TOML file become flags before the given ones, so that the latter override them.

    The floor above adds `parallel`, a dataclass of further options (the file's table [parallel]), and `open_strategy`,
    which turns these and the run's config into a strategy.
    """
    from cs336_basics.training import train as run_training
    from cs336_basics.training_config import TrainConfig
    from cs336_basics.training_strategy import SingleProcess

    o = tyro.cli(
        _train_options(TrainConfig, parallel), args=_with_config_file(argv, TrainConfig, parallel), prog="cs336 train",
        config=(tyro.conf.CascadeSubcommandArgs,),
    )  # fmt: skip
    opened = contextlib.nullcontext(SingleProcess()) if open_strategy is None else open_strategy(o.parallel, o.run)
    with opened as strategy:
        summary = run_training(o.run, o.out, strategy=strategy)
    if strategy.rank == 0:
        print_result({**summary, "run": str(o.out)}, as_json=o.json)


def _train_options(config: type, parallel: type | None) -> Any:
    """The options of `cs336 train`; made at run time, because importing TrainConfig imports torch."""
    about = tyro.conf.arg
    fields: list[Any] = [
        ("out", Annotated[Path, about(help="directory of the run; an interrupted run there goes on")]),
        ("run", Annotated[config, about(name="")]),
        ("config", Annotated[str | None, about(help="TOML file with values for the flags below, or a shipped one: "
                                               + ", ".join(shipped_configs()))], None),
        ("json", Annotated[bool, about(help="print the summary as JSON"), tyro.conf.FlagCreatePairsOff], False),
    ]  # fmt: skip
    if parallel is not None:
        fields.append(("parallel", Annotated[parallel, about(name="")], dataclasses.field(default_factory=parallel)))
    options = dataclasses.make_dataclass("Train", fields)
    options.__doc__ = (
        "Train a language model, or go on with the run in --out.\n\n"
        "Example: cs336 train --out runs/small --config tinystories --num-steps 5000 --batch-size 32"
    )
    return options


def shipped_configs() -> list[str]:
    """Names of the configs in `configs/`."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.toml"))


def find_config(name: str) -> Path:
    """A TOML file by path, or a shipped one by name.

    Raises:
        FileNotFoundError: neither.
    """
    for path in (Path(name), CONFIG_FOLDER / f"{name}.toml"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"no config file {name}; give a path or one of {', '.join(shipped_configs())}")


def _with_config_file(argv: Sequence[str], config: type, parallel: type | None = None) -> list[str]:
    """The arguments, with the values of --config's file before them."""
    from cs336_basics.runs.config import config_from_dict

    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    name = finder.parse_known_args(list(argv))[0].config
    if name is None:
        return [*_variant_words(argv, {}), *argv]
    path = find_config(name)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        spread = values.pop("parallel", {}) if parallel is not None else {}
        if parallel is not None:
            config_from_dict(parallel, spread)
        missing = {"train_tokens": "-", "valid_tokens": "-", "tokenizer": "-"}  # flags may still give them
        config_from_dict(config, {**missing, **values, "model": {"vocab_size": 1, **values.get("model", {})}})
    except (tomllib.TOMLDecodeError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    flags = [*_flags(values), *_flags(spread), *argv]
    return [*_variant_words(flags, values.get("model", {})), *flags]


def _variant_words(argv: Sequence[str], model: Mapping[str, Any]) -> list[str]:
    """tyro's word, such as model.moe:mixture-of-experts-config, for each optional part that flags or file mention."""
    from cs336_basics.model_config import ModelConfig

    words = []
    for name, hint in typing.get_type_hints(ModelConfig).items():
        parts = [part for part in typing.get_args(hint) if isinstance(part, type) and dataclasses.is_dataclass(part)]
        option = f"model.{name.replace('_', '-')}"
        flagged = any(argument.replace("_", "-").startswith(f"--{option}.") for argument in argv)
        if parts and (flagged or name in model):
            words.append(f"{option}:" + re.sub(r"(?<!^)(?=[A-Z])", "-", parts[0].__name__).lower())
    return words


def _flags(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested values as command-line flags."""
    flags: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if isinstance(value, dict):
            flags += _flags(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            flags.append(f"--{prefix}{'' if value else 'no-'}{name}")
        elif isinstance(value, list):
            flags += [f"--{prefix}{name}", *map(str, value)]
        else:
            flags.append(f"--{prefix}{name}={value}")
    return flags


@dataclass(frozen=True)
class Generate:
    """Let a trained model continue a prompt; text appears as it is written."""

    model: ModelFolder
    """run directory of `cs336 train`, or a folder with model.pt and model_config.json"""
    prompt: str = ""
    """text to continue; empty begins a new document"""
    max_new_tokens: int = 256
    """stop after so many tokens, or at the end of the document"""
    temperature: float = 1.0
    """0 always takes the likeliest token"""
    top_k: int | None = None
    """choose among the k likeliest tokens"""
    top_p: float | None = None
    """choose among the likeliest tokens that together have this probability"""
    seed: int = 0
    """same seed, same text"""
    tokenizer: Path | None = None
    """folder of the tokenizer; by default the one the run was trained with"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""


def generate(argv: list[str]) -> None:
    """`cs336 generate`."""
    o = parse(Generate, argv, "generate", example='generate runs/tour/pretraining --prompt "Once, " --temperature 0.8')
    import torch

    from cs336_basics.generation import stream_tokens

    model, tokenizer = load_model(o.model, o.device), load_tokenizer(o.model, o.tokenizer)
    device = next(model.parameters()).device
    end = tokenizer.special_id(END_OF_TEXT)
    prompt = torch.tensor([tokenizer.encode(o.prompt) or [end]], device=device)
    stream = stream_tokens(
        model, prompt, temperature=o.temperature, top_k=o.top_k, top_p=o.top_p,
        generator=torch.Generator(device).manual_seed(o.seed),
    )  # fmt: skip
    tokens = (int(token) for token in itertools.islice(stream, o.max_new_tokens))
    sys.stdout.write(o.prompt)
    for piece in decode_stream(tokenizer, itertools.takewhile(lambda token: token != end, tokens)):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def load_model(folder: Path, device: str) -> TransformerLM:
    """The model of a finished run, ready to be used.

    Raises:
        FileNotFoundError: no model there; ValueError: its run has not finished.
    """
    from cs336_basics.model import TransformerLM
    from cs336_basics.training import choose_device

    if not (folder / "model_config.json").is_file():
        if (folder / "checkpoints").is_dir():
            raise ValueError(f"the run in {folder} has not finished; give its `cs336 train` command again")
        raise FileNotFoundError(f"no model in {folder}; give a run directory of `cs336 train`")
    return TransformerLM.from_pretrained(folder).to(choose_device(device)).eval()


def load_tokenizer(model: Path, given: Path | None) -> Tokenizer:
    """The given tokenizer, or the one that the run's config names.

    Raises:
        ValueError: the run names none.
    """
    from cs336_basics.tokenization.tokenizer import Tokenizer

    config = model / "config.json"
    name = json.loads(config.read_text(encoding="utf-8")).get("tokenizer") if config.is_file() else None
    own = (place for place in (model / "tokenizer", model) if (place / "vocab.json").is_file())  # saved with the model
    folder = given or (Path(name) if name else next(own, None))
    if folder is None:
        raise ValueError(f"{model} does not say which tokenizer it was trained with; name it with --tokenizer FOLDER")
    if not (folder / "vocab.json").is_file():
        raise FileNotFoundError(f"no tokenizer in {folder}; name its folder with --tokenizer")
    return Tokenizer.load(folder)


@dataclass(frozen=True)
class Evaluate:
    """Loss, perplexity and bits per byte of a trained model on a token file or a text file."""

    model: ModelFolder
    """run directory of `cs336 train`, or a folder with model.pt and model_config.json"""
    data: File
    """token file (with its manifest beside it) or UTF-8 text"""
    by: Literal["windows", "documents"] = "windows"
    """cut the tokens into windows, or begin at each document"""
    batch_size: int = 32
    """windows per forward pass"""
    tokenizer: Path | None = None
    """folder of the tokenizer; by default the one the run was trained with"""
    device: str = "auto"
    """cpu, cuda, mps, or auto: a GPU where there is one"""
    json: Switch = False
    """print the result as JSON"""


def evaluate(argv: list[str]) -> None:
    """`cs336 evaluate`."""
    o = parse(Evaluate, argv, "evaluate", example="evaluate runs/small data/tinystories/valid.bin")
    from cs336_basics.evaluation import evaluate_documents, evaluate_windows

    model, tokenizer = load_model(o.model, o.device), load_tokenizer(o.model, o.tokenizer)
    tokens, nats = _read_tokens(o.data, tokenizer)
    options: dict[str, Any] = {
        "batch_size": o.batch_size, "device": next(model.parameters()).device,
        "token_bytes": tokenizer.token_byte_lengths(),
    }  # fmt: skip
    context = model.config.context_length
    if o.by == "documents":
        result = evaluate_documents(model, tokens, context, tokenizer.special_id(END_OF_TEXT), **options)
    else:
        result = evaluate_windows(model, tokens, context, **options)
    values = {"loss": result.loss, "perplexity": result.perplexity, "bits_per_byte": result.bits_per_byte}
    values |= {"tokens": result.tokens}
    if nats is not None:
        floor = nats / len(tokens)
        values |= {"entropy_floor": floor, "above_floor": result.loss / floor - 1}
    print_result(values, as_json=o.json)


def _read_tokens(path: Path, tokenizer: Tokenizer) -> tuple[Any, float | None]:
    """The tokens of a token or text file, and the exact -log p of its text where that is known."""
    import numpy as np

    from cs336_basics.data import open_tokens, read_manifest

    if Path(f"{path}.json").is_file() or path.suffix == ".bin":
        manifest = read_manifest(path)
        if manifest["vocab_size"] != tokenizer.vocab_size:
            raise ValueError(
                f"{path} was encoded with a vocabulary of {manifest['vocab_size']}, the tokenizer has "
                f"{tokenizer.vocab_size}; encode the text with `cs336 tokenizer encode`"
            )
        return open_tokens(path), manifest.get("nats")
    with open(path, encoding="utf-8", newline="") as file:
        return np.fromiter(tokenizer.encode_iterable(file), dtype=np.int64), known_nats(path)


@dataclass(frozen=True)
class ModelInfo:
    """Count a model's parameters, FLOPs and memory, without building it."""

    config: Annotated[str, tyro.conf.Positional]
    """TOML file, the name of a shipped config such as gpt2-xl, or a run directory"""
    batch_size: int = 1
    """sequences per training step, for the memory"""
    memory_gb: float = 80.0
    """memory (10^9 bytes) for which to name the largest batch"""
    json: Switch = False
    """print the result as JSON"""


def model_info(argv: list[str]) -> None:
    """`cs336 model info`."""
    o = parse(ModelInfo, argv, "model info", example="model info gpt2-xl --batch-size 4")
    from cs336_basics import accounting
    from cs336_basics.model_config import ModelConfig
    from cs336_basics.runs.config import config_from_dict

    stored = Path(o.config) / "model_config.json"
    if stored.is_file():
        model = json.loads(stored.read_text(encoding="utf-8"))
    else:
        model = tomllib.loads(find_config(o.config).read_text(encoding="utf-8")).get("model")
        if model is None:
            raise ValueError(f"{o.config} has no [model] table")
    config = config_from_dict(ModelConfig, model)
    parts, flops = accounting.parameter_counts(config), accounting.forward_flops(config)
    memory, total = accounting.training_memory_bytes(config, batch_size=o.batch_size), sum(flops.values())
    values: dict[str, Any] = {"parameters": sum(parts.values())}
    values |= {f"  {name}": count for name, count in parts.items() if count}
    values |= {f"forward FLOPs, {config.context_length} tokens": float(total)}
    values |= {f"  {name} (share)": count / total for name, count in flops.items()}
    values |= {"training FLOPs per token": accounting.training_flops_per_token(config)}
    values |= {f"AdamW training in float32, batch {o.batch_size}, GB": sum(memory.values()) / 1e9}
    values |= {f"  {name}, GB": count / 1e9 for name, count in memory.items()}
    cached = 4 * accounting.cached_numbers(config)
    values |= {f"key-value cache in float32, {config.context_length} tokens, MB per sequence": cached / 1e6}
    values |= {
        f"largest batch in {o.memory_gb:g} GB": accounting.largest_batch(config, memory_bytes=int(o.memory_gb * 1e9))
    }
    left_out = accounting.not_counted(config)
    values |= {"not counted": "; ".join(left_out)} if left_out else {}
    print_result(values, as_json=o.json)

"""The verbs `cs336 model import` and `cs336 model export`: Hugging Face folders. Read next: `folder.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from cs336_basics.cli import load_model, load_tokenizer
from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.runs.command_line import parse, print_result
from cs336_basics.tokenization.huggingface_exchange import read_huggingface, write_huggingface

HUGGINGFACE_CONFIG = "huggingface_config.json"  # what import keeps for export
Switch = tyro.conf.FlagCreatePairsOff[bool]


@dataclass(frozen=True)
class ModelImport:
    """Turn a Hugging Face folder of a Llama or Qwen2.5 model (config.json, *.safetensors) into a folder of ours."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder with config.json and safetensors files"""
    out: Path
    """new folder for model.pt and model_config.json, which generate and evaluate take"""
    context_length: int | None = None
    """longest sequence; the folder's own by default"""
    json: Switch = False
    """print the result as JSON"""


def model_import(argv: list[str]) -> None:
    """`cs336 model import`."""
    o = parse(ModelImport, argv, "model import", example="model import downloads/Qwen2.5-0.5B --out runs/qwen")
    from cs336_basics.huggingface.folder import read_huggingface_folder, refuse_full_folder
    from cs336_basics.runs.atomic import write_json
    from cs336_basics.training import save_model

    refuse_full_folder(o.out)
    model = read_huggingface_folder(o.folder, context_length=o.context_length)
    write_json(o.out / HUGGINGFACE_CONFIG, json.loads((o.folder / "config.json").read_text(encoding="utf-8")))
    values = {
        "model": str(o.out),
        "parameters": model.get_num_params(),
        "tokenizer": _import_tokenizer(o.folder, o.out),
    }
    save_model(model, o.out)
    print_result(values | {"dtype": str(model.lm_head.weight.dtype)}, as_json=o.json)


def _import_tokenizer(source: Path, out: Path) -> str:
    """Convert tokenizer.json where we can; returns what became of it."""
    if not (source / "tokenizer.json").is_file():
        return "none in the folder"
    try:
        tokenizer = read_huggingface(source / "tokenizer.json")
    except ValueError as error:
        return f"not converted: {error}"
    tokenizer.save(out / "tokenizer")
    return str(out / "tokenizer")


@dataclass(frozen=True)
class ModelExport:
    """Write a trained model as a Hugging Face folder, a Llama or (with biases) a Qwen2.5 in shape."""

    run: Annotated[Path, tyro.conf.Positional]
    """run directory of `cs336 train`, or a folder with model.pt and model_config.json"""
    out: Path
    """new folder for config.json and the safetensors files"""
    dtype: Literal["stored", "float32", "bfloat16", "float16"] = "stored"
    """type of the weights; as they are stored by default"""
    json: Switch = False
    """print the result as JSON"""


def model_export(argv: list[str]) -> None:
    """`cs336 model export`."""
    o = parse(ModelExport, argv, "model export", example="model export runs/tour/pretraining --out exported")
    import torch

    from cs336_basics.huggingface.folder import refuse_full_folder, write_huggingface_folder

    refuse_full_folder(o.out)
    model = load_model(o.run, "cpu")
    stored = torch.load(o.run / "model.pt", map_location="meta", weights_only=True)
    dtype = next(iter(stored.values())).dtype if o.dtype == "stored" else getattr(torch, o.dtype)
    facts = _token_ids(o.run)
    write_huggingface_folder(model, o.out, dtype=dtype, facts=facts)
    values = {"folder": str(o.out), "parameters": model.get_num_params(), "dtype": str(dtype), **facts}
    print_result(values | {"tokenizer": _export_tokenizer(o.run, o.out)}, as_json=o.json)


def _token_ids(run: Path) -> dict[str, Any]:
    """Special ids for config.json: those the model was imported with, or end of text of its tokenizer."""
    imported = run / HUGGINGFACE_CONFIG
    if imported.is_file():
        values = json.loads(imported.read_text(encoding="utf-8"))
        return {name: values[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in values}
    try:
        end = load_tokenizer(run, None).special_id(END_OF_TEXT)
    except (FileNotFoundError, ValueError):
        return {"bos_token_id": None, "eos_token_id": None}
    return {"bos_token_id": end, "eos_token_id": end}


def _export_tokenizer(run: Path, folder: Path) -> str:
    """Write tokenizer.json where there is a tokenizer; returns what became of it."""
    try:
        write_huggingface(folder, load_tokenizer(run, None))
    except (FileNotFoundError, ValueError) as error:
        return f"not written: {error}"
    return str(folder / "tokenizer.json")

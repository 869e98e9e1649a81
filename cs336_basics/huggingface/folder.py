"""Folders of Hugging Face's Llama and Qwen2.5 models, to and from TransformerLM.

    model.embed_tokens                      token_embeddings
    model.layers.I.input_layernorm          layers.I.ln1
    model.layers.I.self_attn.{q,k,v}_proj   layers.I.attn.{q,k,v}_proj
    model.layers.I.self_attn.o_proj         layers.I.attn.output_proj
    model.layers.I.post_attention_layernorm layers.I.ln2
    model.layers.I.mlp.gate_proj            layers.I.ffn.w1
    model.layers.I.mlp.up_proj, down_proj   layers.I.ffn.w3, w2
    model.norm, lm_head                     ln_final, lm_head

Rotary pairs: those folders pair coordinate k of a head with k + d/2. A model read from one says so (rope_pairs =
"halves") and keeps every tensor as it is, so that reading and writing give the same bits. A model of ours that pairs
neighbours is written with the rows of its queries and keys in the order 0, 2, 4, ... 1, 3, 5, ..., which gives the
same scores; read again it is a model of halves.

All names, shapes and types are checked from the files' headers before anything is allocated; then one tensor after the
other is copied to its place, so memory holds the model once. Left out: pickled weights (pytorch_model.bin), tokenizers
(see `tokenization/`). Read next: `config.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from cs336_basics.huggingface.config import config_from_huggingface, config_to_huggingface
from cs336_basics.model import TransformerLM, make_rotary
from cs336_basics.model_config import ModelConfig
from cs336_basics.runs.atomic import atomic_write, write_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PARTS = {
    "token_embeddings": "model.embed_tokens", "ln_final": "model.norm", "lm_head": "lm_head",
    "ln1": "input_layernorm", "ln2": "post_attention_layernorm", "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj", "attn.v_proj": "self_attn.v_proj", "attn.output_proj": "self_attn.o_proj",
    "ffn.w1": "mlp.gate_proj", "ffn.w2": "mlp.down_proj", "ffn.w3": "mlp.up_proj",
}  # fmt: skip
_TABLE = "token_embeddings.weight"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")  # in old files; follows from the config


def huggingface_name(name: str) -> str:
    """The name of one of our weights in those folders.

    Example:
        >>> huggingface_name("layers.3.attn.output_proj.weight")
        'model.layers.3.self_attn.o_proj.weight'
    """
    part, kind = name.rsplit(".", 1)
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", part)
    if layer is None:
        return f"{_PARTS[part]}.{kind}"
    return f"model.layers.{layer[1]}.{_PARTS[layer[2]]}.{kind}"


def read_huggingface_folder(
    folder: str | os.PathLike[str],
    *,
    context_length: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> TransformerLM:
    """The model in a folder with config.json and safetensors files, one or several with an index.

    Args:
        folder: what `save_pretrained` of transformers or `write_huggingface_folder` wrote, or a download from the hub.
        context_length: a shorter context than the file's.
        device: where the weights go.
        dtype: type of the weights; the files' own by default.

    Raises:
        FileNotFoundError: no config.json, or no safetensors files.
        ValueError: a model that ours cannot be; tensors missing, unexpected, of another shape or type. Nothing has been
            allocated then.
        ImportError: safetensors is not installed.
    """
    path = Path(folder)
    config = config_from_huggingface(_read_json(path / "config.json"), context_length=context_length)
    sources = _tensor_sources(path)
    model = TransformerLM(config, device="meta")
    found = _check_tensors(sources, model)
    model = model.to_empty(device=device or "cpu").to(dtype or found)
    _restore_what_is_derived(model)
    weights = dict(model.named_parameters())
    wanted = {huggingface_name(name): weight for name, weight in weights.items()}
    spare_head = None
    for name, tensor in _stream(sources):
        if name in wanted:
            with torch.no_grad():
                wanted[name].copy_(tensor)
        else:
            spare_head = tensor
    if spare_head is not None and not torch.equal(spare_head.to(weights[_TABLE]), weights[_TABLE]):
        raise ValueError(f"{path}: config.json ties lm_head to the embeddings, but the two tensors differ")
    return model


def _restore_what_is_derived(model: TransformerLM) -> None:
    """The shared head and the rotary tables, which `to_empty` leaves apart and empty."""
    if model.config.tie_embeddings:
        model.lm_head.weight = model.token_embeddings.weight
    rotary = model.positional_encoder
    fresh = make_rotary(model.config, model.token_embeddings.weight.device)
    assert rotary is not None and fresh is not None  # config_from_huggingface knows no other positions
    for name, table in fresh.named_buffers():
        setattr(rotary, name, table)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; give a folder with config.json and safetensors files")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; download it again")
    return values


def _tensor_sources(folder: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it."""
    if (folder / INDEX).is_file():
        shards = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or any(Path(file).name != file for file in shards.values()):
            raise ValueError(f"{folder / INDEX} has no weight_map of tensor names to file names beside it")
        sources = {name: folder / file for name, file in shards.items()}
    elif (folder / SINGLE).is_file():
        sources = dict.fromkeys(_headers(folder / SINGLE), folder / SINGLE)
    else:
        raise FileNotFoundError(f"{folder} has neither {SINGLE} nor {INDEX}; pickled weights are not read")
    return {name: file for name, file in sources.items() if not _DERIVED.fullmatch(name)}


def _open(path: Path) -> Any:
    """A safetensors file, mapped, not read."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("Hugging Face folders need safetensors; install it with: pip install safetensors") from error
    if not path.is_file():
        raise FileNotFoundError(f"no {path}, which the index names; download it again")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); download it again") from error


def _headers(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor in a file."""
    with _open(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}


def _check_tensors(sources: Mapping[str, Path], model: TransformerLM) -> torch.dtype:
    """Raise unless the files hold the model's tensors; returns their type."""
    headers: dict[str, tuple[str, tuple[int, ...]]] = {}
    for path in sorted(set(sources.values())):
        inside = _headers(path)
        strays = [name for name in inside if not _DERIVED.fullmatch(name) and sources.get(name) != path]
        lost = [name for name, file in sources.items() if file == path and name not in inside]
        if strays or lost:
            raise ValueError(f"{path} and the index disagree about {', '.join((strays + lost)[:3])}")
        headers |= {name: header for name, header in inside.items() if name in sources}
    wanted = {huggingface_name(name): tuple(weight.shape) for name, weight in model.named_parameters()}
    optional = {"lm_head.weight"} if model.config.tie_embeddings else set()
    missing, extra = sorted(wanted.keys() - headers.keys()), sorted(headers.keys() - wanted.keys() - optional)
    if missing or extra:
        raise ValueError(
            f"the tensors are not those that config.json promises: {len(missing)} missing {missing[:3]}, {len(extra)} "
            f"unexpected {extra[:3]}"
        )
    for name, shape in wanted.items():
        if headers[name][1] != shape:
            raise ValueError(f"{name} has shape {headers[name][1]}, but config.json makes it {shape}")
    kinds = {kind for kind, _ in headers.values()}
    if len(kinds) > 1 or not kinds <= _DTYPES.keys():
        raise ValueError(f"weights must all be of one type among {', '.join(_DTYPES)}; got {', '.join(sorted(kinds))}")
    return _DTYPES[kinds.pop()]


def _stream(sources: Mapping[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """All tensors, one at a time."""
    for path in sorted(set(sources.values())):
        with _open(path) as file:
            for name in file.keys():  # noqa: SIM118  (it is no dictionary)
                if name in sources:
                    yield name, file.get_tensor(name)


def write_huggingface_folder(
    model: TransformerLM,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 2_000_000_000,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json and safetensors files that transformers, vLLM and llama.cpp's converter read.

    Args:
        model: a Llama or Qwen2.5 in shape; see `config_to_huggingface`.
        folder: new or empty.
        dtype: type of the weights; the model's own by default.
        max_shard_bytes: more than this goes into several files with an index; memory holds one file
            besides the model.
        facts: further fields of config.json, such as bos_token_id and eos_token_id.

    Raises:
        ValueError: the model has another shape, or the folder holds something; nothing has been written then.
    """
    from safetensors.torch import save

    path, target = Path(folder), dtype or model.token_embeddings.weight.dtype
    values = {**config_to_huggingface(model.config), "torch_dtype": str(target).removeprefix("torch."), **(facts or {})}
    refuse_full_folder(path)
    shards = _shards(model, target.itemsize, max_shard_bytes)
    weights, weight_map = dict(model.named_parameters()), dict[str, str]()
    for number, names in enumerate(shards, start=1):
        file_name = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {huggingface_name(name): _exported(weights[name], name, model.config, target) for name in names}
        with atomic_write(path / file_name) as file:
            file.write(save(tensors, metadata={"format": "pt"}))
        weight_map |= dict.fromkeys(tensors, file_name)
    if len(shards) > 1:
        total = sum(weight.numel() * target.itemsize for weight in weights.values())
        write_json(path / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})
    write_json(path / "config.json", values)  # last: a folder without it is not whole


def refuse_full_folder(folder: Path) -> None:
    """Raise a ValueError unless the folder is missing or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; choose a new one, so that nothing there is overwritten")


def _shards(model: TransformerLM, itemsize: int, most: int) -> list[list[str]]:
    """Names of weights in order, cut so that no file holds more than `most` bytes unless one tensor alone does."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, weight in model.named_parameters():
        bytes_here = weight.numel() * itemsize
        if shards[-1] and size + bytes_here > most:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += bytes_here
    return shards


def _exported(weight: Tensor, name: str, config: ModelConfig, dtype: torch.dtype) -> Tensor:
    """A weight as those folders have it."""
    tensor = weight.detach().cpu()
    if config.rope_pairs == "interleaved" and re.search(r"attn\.[qk]_proj\.", name):
        tensor = pairs_to_halves(tensor, config.d_head)
    return tensor.to(dtype).contiguous()


def pairs_to_halves(weight: Shaped[Tensor, "rows ..."], head_dim: int) -> Shaped[Tensor, "rows ..."]:
    """The rows of each head in the order 0, 2, 4, ... 1, 3, 5, ...: neighbours that turn together move d/2 apart.

    Args:
        weight: a projection (heads * head_dim, d_model) or its bias (heads * head_dim,), head after head.
        head_dim: even.
    """
    heads = weight.unflatten(0, (-1, head_dim // 2, 2))
    return heads.transpose(1, 2).flatten(0, 2)

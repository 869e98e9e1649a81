"""A policy and its tokenizer from a folder: a run of ours, a Hugging Face folder, or a name on its hub.

Read next: `cli.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from cs336_basics.runs.machine import choose_device


def load_policy(name: str, tokenizer: Path | None = None, *, device: str = "auto") -> tuple[Any, Any]:
    """(model, tokenizer), the model on the device.

    Args:
        name: a run directory of `cs336 train` or of a verb of this package, a folder of transformers, or a hub name.
        tokenizer: folder of a tokenizer of ours; by default the one that the run names.
        device: as everywhere. A Hugging Face model on a GPU computes in bfloat16 (autocast) and keeps its weights in
            float32: in bfloat16 an update of 1e-5 would be rounded away.

    Raises:
        FileNotFoundError: a path without a model.
        ModuleNotFoundError: a Hugging Face model without transformers.
    """
    folder = Path(name)
    if (folder / "model_config.json").is_file() or (folder / "checkpoints").is_dir():
        from cs336_basics.cli import load_model, load_tokenizer

        return load_model(folder, device), load_tokenizer(folder, tokenizer)
    if not (folder / "config.json").is_file() and (folder.is_absolute() or name.count("/") != 1 or folder.exists()):
        raise FileNotFoundError(
            f"no model in {name}; give a run directory of `cs336 train`, a Hugging Face folder, or a name on its hub"
        )
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} is a Hugging Face model, which needs transformers; pip install transformers", name="transformers"
        ) from error
    where = choose_device(device)
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    model = model.to(where).eval()
    if where.type == "cuda":
        model.forward = torch.autocast("cuda", dtype=torch.bfloat16)(model.forward)
    return model, AutoTokenizer.from_pretrained(name)

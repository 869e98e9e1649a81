"""From an OptimizerConfig to an optimizer: which class, which parameter groups.

Read next: the optimizer in question.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from cs336_basics.optimizer import AdamW, ParameterwiseOptimizer
from cs336_basics.optimizers.adafactor import Adafactor
from cs336_basics.optimizers.lion import Lion
from cs336_basics.optimizers.muon import Muon, muon_groups
from cs336_basics.optimizers.schedule_free import ScheduleFreeAdamW
from cs336_basics.optimizers.soap import SOAP
from cs336_basics.training_config import OptimizerConfig


def build_optimizer(config: OptimizerConfig, named_parameters: Iterable[tuple[str, Tensor]]) -> ParameterwiseOptimizer:
    """The optimizer that `config` describes, for these parameters (names as in the model's state dict)."""
    named = list(named_parameters)
    groups = muon_groups(named) if config.name == "muon" else [{"params": [p for _, p in named]}]
    if config.weight_decay_on == "matrices":
        groups = split_off_undecayed(groups, named)
    common: dict[str, Any] = {"lr": config.max_learning_rate, "weight_decay": config.weight_decay}
    if config.name == "adafactor":
        return Adafactor(groups, **common, relative_step=config.relative_step)
    common["betas"] = config.betas
    if config.name == "lion":
        return Lion(groups, **common)
    common["eps"] = config.eps
    if config.name == "soap":
        return SOAP(groups, **common, precondition_every=config.precondition_every)
    return {"adamw": AdamW, "muon": Muon, "schedule_free": ScheduleFreeAdamW}[config.name](groups, **common)


def split_off_undecayed(
    groups: Iterable[dict[str, Any]], named_parameters: Iterable[tuple[str, Tensor]]
) -> list[dict[str, Any]]:
    """Each group in two: what decays, and, with weight_decay 0, vectors (gains of norms) and embedding tables.

    A table that is also the output head counts as an embedding. Groups that would be empty are left out.
    """
    exempt = {id(p) for name, p in named_parameters if p.dim() < 2 or "embedding" in name}
    halves = []
    for group in groups:
        kept, free = ([p for p in group["params"] if (id(p) in exempt) is side] for side in (False, True))
        halves += [{**group, "params": kept}, {**group, "params": free, "weight_decay": 0.0}]
    return [group for group in halves if group["params"]]

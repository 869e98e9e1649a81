"""What the training loop's strategies for several processes have in common, and data parallel itself.

Checkpoints are written by rank 0 in the layout of one process, so that every strategy and `SingleProcess` reads them
all. What differs between batches (random states, position in the data) is stored under "ranks", once for each batch of
a step. A run that goes on with another number of batches gives the old ones their states back and the new ones states
drawn from the first one's: a correct continuation, not the same batches.

Handout: naive_ddp to ddp_overlap_bucketed. Read next: `sharded_strategies.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_basics import checkpoint
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import clip_gradient
from cs336_basics.training_loss import TrainingLoss
from cs336_basics.training_strategy import Result, SingleProcess, loss_backward
from cs336_systems.parallel.activation_checkpointing import checkpoint_activations
from cs336_systems.parallel.checkpointing_plan import plan_every, plan_nested
from cs336_systems.parallel.ddp import DDP, DataParallel, DDPBucketed, FlatDDP, NaiveDDP
from cs336_systems.parallel.optimizer_offload import offload
from cs336_systems.parallel.parallel_config import ParallelConfig
from cs336_systems.parallel.process_group import control_device

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


def prepared(model: nn.Module, parallel: ParallelConfig) -> nn.Module:
    """The model, in place, with the activation checkpointing that is asked for."""
    name = parallel.activation_checkpointing
    if name != "none":
        assert isinstance(model, TransformerLM)
        layers = model.config.num_layers
        plan = plan_nested(layers) if name == "nested" else plan_every(layers, 1 if name == "all" else int(name))
        checkpoint_activations(model, plan)
    return model


def placed(optimizer: torch.optim.Optimizer, parallel: ParallelConfig) -> torch.optim.Optimizer:
    """The optimizer, which has made no step yet, on the CPU if that is asked for."""
    return offload(optimizer) if parallel.offload_optimizer else optimizer


class SingleStrategy(SingleProcess):
    """One process, with activation checkpointing and offloading."""

    def __init__(self, parallel: ParallelConfig) -> None:
        self.parallel = parallel

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """The model itself."""
        return prepared(model, self.parallel), placed(make_optimizer(model.named_parameters()), self.parallel)


class GroupStrategy:
    """The base of all others: a member of the process group, whose wrapper keeps the model as `.module`."""

    def __init__(self, parallel: ParallelConfig) -> None:
        self.parallel = parallel
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.batch_rank, self.num_batches = self.rank, self.world_size

    def accumulating(self, module: Any) -> contextlib.AbstractContextManager[None]:
        """Nothing is sent that need not be."""
        return contextlib.nullcontext()

    def forward_backward(self, module: Any, loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int) -> Tensor:
        """As on one process."""
        return loss_backward(loss, batch, parts)

    def finish_gradients(self, module: Any) -> None:
        """Nothing is left to do after backward."""

    def clip_gradient(self, module: Any, max_norm: float) -> Tensor:
        """Every process has the whole gradient."""
        return clip_gradient(module.parameters(), max_norm)

    def mean(self, value: float) -> float:
        """Mean over processes, added in float64."""
        total = torch.tensor(value, dtype=torch.float64, device=control_device())
        dist.all_reduce(total)
        return total.item() / self.world_size

    def on_main(self, action: Callable[[], Result]) -> Result:
        """Run on rank 0 and send the result, or the error, to all."""
        sent: list[Any] = [None, None]
        if self.rank == 0:
            try:
                sent[0] = action()
            except Exception as error:
                sent[1] = error
        failure, message = sent[1], [sent[0], None if sent[1] is None else f"rank 0 failed: {sent[1]}"]
        dist.broadcast_object_list(message)
        if failure is not None:
            raise failure
        if message[1] is not None:
            raise ValueError(message[1])
        return message[0]

    def weights(self, module: Any) -> dict[str, Tensor]:
        """The model's own, which all processes have."""
        return module.module.state_dict()

    def optimizer_state(self, module: Any, optimizer: Any) -> dict[str, Any] | None:
        """The optimizer's state as one process has it; needed on rank 0 only."""
        return optimizer.state_dict()

    def average_state(self, module: Any, state: dict[str, Any]) -> dict[str, Any]:
        """The state of a moving average of the weights as one process has it."""
        return state

    def save(self, module: Any, optimizer: Any, step: int, path: Path, **extra: Any) -> None:
        """Rank 0 writes one file in the layout of a single process."""
        if extra.get("ema") is not None:
            extra["ema"] = self.average_state(module, extra["ema"])
        own = {key: value for key, value in extra.items() if key != "ema"}
        ranks: list[Any] | None = [None] * self.world_size if self.rank == 0 else None
        dist.gather_object(own, ranks)
        state = {"model": self.weights(module), "optimizer": self.optimizer_state(module, optimizer), "iteration": step}
        if self.rank == 0:
            assert ranks is not None
            checkpoint.save_state({**state, **extra, "ranks": ranks[: self.num_batches]}, path)

    def load(self, module: Any, optimizer: Any, path: Path) -> dict[str, Any]:
        """Each process reads the file and takes its part."""
        state = checkpoint.load_state(path)
        self.restore(state, module, optimizer)
        own = (state.get("ranks") or [state])[self.batch_rank :][:1]
        if own:
            shared = ("model", "optimizer", "ema", "ranks")
            return {**state, **{key: value for key, value in own[0].items() if key not in shared}}
        return _state_of_new_batch(state, self.batch_rank)

    def restore(self, state: dict[str, Any], module: Any, optimizer: Any) -> None:
        """Put weights and optimizer state into place."""
        checkpoint.restore(state, module.module, optimizer)


def _state_of_new_batch(state: dict[str, Any], number: int) -> dict[str, Any]:
    """The first batch's entries with random states of its own for one that the checkpoint does not know."""
    source = torch.Generator()
    source.set_state(state["sampler"])
    seed = int(torch.randint(2**62, (), generator=source)) + 2 * number
    fresh = {"sampler": torch.Generator().manual_seed(seed).get_state()}
    return {**state, **fresh, "torch_rng": torch.Generator().manual_seed(seed + 1).get_state(), "cuda_rng": None}


class DDPStrategy(GroupStrategy):
    """Every process holds everything; gradients are averaged in one of four ways."""

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """The wrapper of ddp.py that the name says, and the plain optimizer."""
        ddp = self.data_parallel(prepared(model, self.parallel))
        return ddp, placed(make_optimizer(model.named_parameters()), self.parallel)

    def data_parallel(self, model: nn.Module) -> DataParallel:
        """The wrapper."""
        kinds = {"ddp-naive": NaiveDDP, "ddp-flat": FlatDDP, "ddp-overlapped": DDP}
        kind = kinds.get(self.parallel.strategy)
        return DDPBucketed(model, self.parallel.bucket_mb) if kind is None else kind(model)

    def accumulating(self, module: Any) -> contextlib.AbstractContextManager[None]:
        """Nothing is sent inside."""
        return module.no_sync()

    def finish_gradients(self, module: Any) -> None:
        """Wait for the means."""
        finish_data_parallel(module)


def finish_data_parallel(module: Any) -> None:
    """Finish a wrapper's gradients, and sum the experts' loads, which balance mixtures of experts."""
    module.finish_gradient_synchronization()
    for name, buffer in module.module.named_buffers():
        if name.endswith("tokens_per_expert"):
            dist.all_reduce(buffer)

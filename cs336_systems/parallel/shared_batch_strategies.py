"""Strategies whose processes work on one batch together: matrices cut, layers in stages, or sequences cut.

    tensor     1/N of every matrix        every process sees every token; two all-reduces per layer, each way
    pipeline   some of the layers         micro-batches stream through the stages
    context    everything                 1/N of each sequence; keys and values go round a ring

All read and write the checkpoints of one process. For validation and samples the model is called on all processes, on
the same tokens: tensor parallel gathers the logits, the pipeline passes them on, context parallel works on its own.

Handout: tp_calcs. Left out: these within data parallel groups. Read next: `strategies.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_basics import checkpoint
from cs336_basics.model import TransformerLM
from cs336_basics.nn_utils import cross_entropy
from cs336_basics.training_loss import TrainingLoss
from cs336_basics.training_strategy import loss_backward
from cs336_systems.parallel.context_parallel import pieces_of_rank
from cs336_systems.parallel.ddp import DDPBucketed
from cs336_systems.parallel.group_strategy import DDPStrategy, GroupStrategy, MakeOptimizer, placed, prepared
from cs336_systems.parallel.parallel_config import ParallelConfig
from cs336_systems.parallel.pipeline_parallel import Pipeline, PipelineStage
from cs336_systems.parallel.pipeline_schedule import SCHEDULES
from cs336_systems.parallel.process_group import broadcast_tensors, check_same_module, clip_sharded_gradients
from cs336_systems.parallel.ring_transformer import ContextParallelLM, shard_sequence
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer
from cs336_systems.parallel.sharded_strategies import PartsStrategy
from cs336_systems.parallel.tensor_parallel import gather_logits, shard_dims, tensor_parallel, whole_of_shards
from cs336_systems.parallel.vocab_parallel import vocab_parallel_cross_entropy


class CutModel(nn.Module):
    """A model cut by `tensor_parallel`, and what its parameters were before."""

    def __init__(self, model: TransformerLM):
        super().__init__()
        check_same_module(model)
        broadcast_tensors([*model.parameters(), *model.buffers()])
        self.module = tensor_parallel(model)
        self.own_logits = model.forward
        model.forward = self.forward  # type: ignore[method-assign, assignment]
        dims, named = shard_dims(model), dict(model.named_parameters(remove_duplicate=False))
        self.dims = {id(named[name]): dim for name, dim in dims.items()}
        self.sharded = [p for p in model.parameters() if id(p) in self.dims]
        self.replicated = [p for p in model.parameters() if id(p) not in self.dims]

    def forward(self, *inputs: Any) -> Tensor:
        """All logits."""
        return gather_logits(self.own_logits(*inputs))

    def whole(self, parameter: Tensor, shard: Tensor) -> Tensor:
        """The uncut tensor of a shard that is cut as `parameter` is."""
        dim = self.dims.get(id(parameter))
        return shard if dim is None else whole_of_shards(shard, dim)

    def part(self, parameter: Tensor, full: Tensor) -> Tensor:
        """The inverse of `whole`."""
        dim = self.dims.get(id(parameter))
        return full if dim is None else full.chunk(dist.get_world_size(), dim)[dist.get_rank()].contiguous()

    def full_shape(self, parameter: Tensor) -> torch.Size:
        """The shape of the uncut parameter."""
        dim, shape = self.dims.get(id(parameter)), list(parameter.shape)
        if dim is not None:
            shape[dim] *= dist.get_world_size()
        return torch.Size(shape)


def require_plain(loss: TrainingLoss) -> None:
    """Raise a ValueError if more than the cross-entropy is to be minimised."""
    if loss.z_loss:
        raise ValueError(
            f"tensor and pipeline parallel training know the cross-entropy only; unset z_loss={loss.z_loss}"
        )


class TensorStrategy(PartsStrategy):
    """Slices of every matrix; the loss is taken from slices of the logits."""

    def __init__(self, parallel: ParallelConfig) -> None:
        super().__init__(parallel)
        self.batch_rank, self.num_batches = 0, 1

    def cut(self, model: nn.Module) -> CutModel:
        """The wrapper."""
        assert isinstance(model, TransformerLM)
        return CutModel(model)

    def forward_backward(
        self, module: CutModel, loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int
    ) -> Tensor:
        """All logits exist nowhere."""
        require_plain(loss)
        inputs, targets = batch
        with loss.precision():
            value = vocab_parallel_cross_entropy(module.own_logits(inputs), targets)
        (value / parts).backward()
        return value.detach().expand(2)


class ContextStrategy(DDPStrategy):
    """Parts of each sequence; to the gradients, data parallel."""

    def __init__(self, parallel: ParallelConfig) -> None:
        super().__init__(parallel)
        self.batch_rank, self.num_batches = 0, 1

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """DDPBucketed around ContextParallelLM around the model."""
        assert isinstance(model, TransformerLM)
        pieces_of_rank(self.rank, self.world_size, model.config.context_length, self.parallel.context_layout)
        ring = ContextParallelLM(model, layout=self.parallel.context_layout)
        prepared(model, self.parallel)
        ddp = DDPBucketed(ring, self.parallel.bucket_mb)
        return ddp, placed(make_optimizer(model.named_parameters()), self.parallel)

    def forward_backward(self, module: Any, loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int) -> Tensor:
        """The own tokens' mean loss; the mean over processes is the batch's."""
        inputs, targets = (shard_sequence(x, self.parallel.context_layout) for x in batch)
        return loss_backward(loss, (inputs, targets), parts)

    def weights(self, module: Any) -> dict[str, Tensor]:
        """The model's own."""
        return module.module.module.state_dict()

    def restore(self, state: dict[str, Any], module: Any, optimizer: Any) -> None:
        """Put weights and optimizer state into place."""
        checkpoint.restore(state, module.module.module, optimizer)


class StageOptimizer(ShardedOptimizer):
    """A ShardedOptimizer whose processes own the parameters of their stage, which nobody else needs."""

    def __init__(self, optimizer: torch.optim.Optimizer, stages: dict[Tensor, int]):
        self.stages = stages
        super().__init__(optimizer.param_groups, lambda groups: optimizer)

    def choose_owner(self, p: Tensor) -> int:
        """The stage."""
        return self.stages[p]

    def send(self, owners: dict[Tensor, int]) -> None:
        """Nothing."""


class StagedModel(nn.Module):
    """A model of which this process holds one stage; the parameters of others are empty tensors."""

    def __init__(self, model: TransformerLM):
        super().__init__()
        check_same_module(model)
        broadcast_tensors([*model.parameters(), *model.buffers()])
        self.module, rank, world_size = model, dist.get_rank(), dist.get_world_size()
        self.full_shapes = {name: p.shape for name, p in model.state_dict().items()}
        self.stages: dict[Tensor, int] = {
            p: stage
            for stage in range(world_size)
            for p in PipelineStage(model, stage=stage, num_stages=world_size).parameters()
        }
        self.pipeline = Pipeline(PipelineStage(model, stage=rank, num_stages=world_size))
        model.forward = self.forward  # type: ignore[method-assign, assignment]

    def forward(self, *inputs: Any) -> Tensor:
        """All logits, on every process."""
        return self.pipeline.logits(*inputs)

    def drop_others(self) -> None:
        """Empty the other stages' parameters."""
        for p, stage in self.stages.items():
            if stage != dist.get_rank():
                p.data = p.new_empty(0)

    def gathered(self, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """All stages' tensors by their parameters' names, on the CPU of rank 0; the others get what they gave."""
        names = {name for name, p in self.module.named_parameters() if self.stages[p] == dist.get_rank()}
        mine = {name: value.detach().cpu() for name, value in own.items() if name in names}
        parts: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(mine, parts)
        found = {name: value for part in parts or [mine] for name, value in part.items()}
        return {name: found[name] for name in own if name in found}


class PipelineStrategy(GroupStrategy):
    """Some layers on each process."""

    def __init__(self, parallel: ParallelConfig) -> None:
        super().__init__(parallel)
        self.batch_rank, self.num_batches = 0, 1

    def wrap(self, model: nn.Module, make_optimizer: MakeOptimizer) -> Any:
        """StagedModel and the optimizer of its stage."""
        assert isinstance(model, TransformerLM)
        module = StagedModel(model)
        optimizer = StageOptimizer(make_optimizer(model.named_parameters()), module.stages)
        module.drop_others()
        optimizer.inner = placed(optimizer.inner, self.parallel)
        return module, optimizer

    def forward_backward(
        self, module: StagedModel, loss: TrainingLoss, batch: tuple[Tensor, Tensor], parts: int
    ) -> Tensor:
        """All micro-batches, by the schedule."""
        require_plain(loss)
        schedule = SCHEDULES[self.parallel.pipeline_schedule](self.world_size, self.parallel.micro_batches)
        value = module.pipeline.step(
            *batch, schedule, loss_function=lambda logits, targets: cross_entropy(logits, targets) / parts,
            precision=loss.precision,
        )  # fmt: skip
        return (value * parts).expand(2)

    def clip_gradient(self, module: StagedModel, max_norm: float) -> Tensor:
        """By the norm of all stages' gradients."""
        return clip_sharded_gradients(module.stages, [], max_norm)

    def weights(self, module: StagedModel) -> dict[str, Tensor]:
        """Gathered on rank 0."""
        return module.gathered(module.module.state_dict())

    def optimizer_state(self, module: Any, optimizer: Any) -> dict[str, Any] | None:
        """Gathered on rank 0."""
        return optimizer.consolidated_state_dict()

    def average_state(self, module: StagedModel, state: dict[str, Any]) -> dict[str, Any]:
        """Gathered on rank 0."""
        return {**state, "average": module.gathered(state["average"])}

    def restore(self, state: dict[str, Any], module: StagedModel, optimizer: Any) -> None:
        """Take the own stage's part."""
        checkpoint.check_entries(state)
        own = module.module.state_dict(keep_vars=True)
        shape_of = {id(p): module.full_shapes[name] for name, p in own.items()}
        checkpoint.check_weights(state["model"], module.module, shape_of=lambda p: shape_of[id(p)])
        optimizer.load_state_dict(state["optimizer"])
        parts = {name: state["model"][name] if p.numel() else p.detach() for name, p in own.items()}
        module.module.load_state_dict(parts)
        if state.get("ema") is not None:
            average = state["ema"]["average"]
            state["ema"]["average"] = {
                name: v if own[name].numel() else own[name].detach() for name, v in average.items()
            }

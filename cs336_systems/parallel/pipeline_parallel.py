"""Pipeline parallelism: each rank holds some layers, and micro-batches stream through the ranks.

Rank s is stage s: it receives activations from stage s-1, runs its layers, and sends the result to stage s+1; in the
backward pass gradients travel the other way. Per micro-batch the stage keeps its input and output, so that

    torch.autograd.backward(output, gradient from the next stage)   leaves the gradient of the input, which is sent back

The order of the passes is a schedule of `pipeline_schedule.py`, whichever. The loss is the mean over the whole batch:
each micro-batch's mean counts by its share of the tokens, and gradients add up in `.grad` as in a single process.

Sends do not wait (a stage that did could wait for its neighbour for ever); receives do. Forward and backward messages
have process groups of their own, because NCCL delivers what one group is given strictly in order. Huang et al. 2019
(GPipe); Narayanan et al. 2021. Left out: interleaving, a stage's own data or tensor parallelism. Read next:
`context_parallel.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics import nn_utils
from cs336_basics.model import TransformerLM
from cs336_systems.parallel.pipeline_schedule import Pass, Schedule, check_schedule
from cs336_systems.parallel.tensor_parallel import Group, check_plain

LossFunction = Callable[[Tensor, Tensor], Tensor]


def layers_of_stages(num_layers: int, num_stages: int) -> list[range]:
    """The layers of each stage: consecutive, as even as possible, earlier stages take the odd ones.

    Raises:
        ValueError: a stage would have none.
    """
    if not 1 <= num_stages <= num_layers:
        raise ValueError(
            f"each stage of a pipeline needs a layer; got {num_layers} layers for {num_stages} stages; use fewer stages"
        )
    size, odd = divmod(num_layers, num_stages)
    starts = [stage * size + min(stage, odd) for stage in range(num_stages + 1)]
    return [range(start, end) for start, end in zip(starts, starts[1:], strict=False)]


class PipelineStage(nn.Module):
    """Some layers of a TransformerLM, with the embedding on the first stage and norm and head on the last.

    The modules are the model's own; drop the model to free the others. Parameters keep their names, so that the state
    dicts of all stages together are the model's.

    Raises:
        ValueError: more stages than layers, a table shared by first and last stage, or a variant that is not plain.
    """

    sinusoids: Tensor

    def __init__(self, model: TransformerLM, *, stage: int, num_stages: int):
        super().__init__()
        check_plain(model.config, "pipeline parallelism")
        if model.config.tie_embeddings and num_stages > 1:
            raise ValueError(
                "tie_embeddings=True shares one table between the first and the last stage of a pipeline, which are "
                "different processes; train with tie_embeddings=False"
            )
        self.config, self.stage, self.num_stages = model.config, stage, num_stages
        own = layers_of_stages(model.config.num_layers, num_stages)[stage]
        self.layers = nn.ModuleDict({str(index): model.layers[index] for index in own})
        if self.is_first:
            self.token_embeddings = model.token_embeddings
            self.embedding_norm = model.embedding_norm
            if model.config.positions == "learned":
                self.position_embeddings = model.position_embeddings
            elif model.config.positions == "sinusoidal":
                self.register_buffer("sinusoids", model.sinusoids, persistent=False)
        if self.is_last:
            self.ln_final, self.lm_head = model.ln_final, model.lm_head

    @property
    def is_first(self) -> bool:
        """Whether it takes token ids."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether it gives logits."""
        return self.stage == self.num_stages - 1

    def forward(self, x: Tensor, cache: list[Any] | None = None, start: int = 0) -> Tensor:
        """Token ids (batch, seq) or activations (batch, seq, d_model) in; activations or logits out.

        `cache` and `start` as in TransformerLM; of the cache's entries the own layers' are used.
        """
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        if self.is_first:
            x = self._embed(x, positions)
        for index, layer in self.layers.items():
            x = layer(x, positions, None if cache is None else cache[int(index)])
        if not self.is_last:
            return x
        logits, cap = self.lm_head(self.ln_final(x)), self.config.logit_softcap
        return logits if cap is None else nn_utils.softcap(logits, cap)

    def _embed(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.token_embeddings(token_ids)
        if self.config.positions == "learned":
            x = x + self.position_embeddings(positions)
        elif self.config.positions == "sinusoidal":
            x = x + self.sinusoids[positions].to(x.dtype)
        return self.embedding_norm(x)


class Pipeline:
    """A stage with its neighbours: runs whole training steps.

    Every rank of the group makes one, with the stage of its rank. A message that does not come within `timeout_s` is
    an error.

    Raises:
        ValueError: the stage is not this rank's.
    """

    def __init__(self, stage: PipelineStage, *, group: Group = None, timeout_s: float = 600.0):
        n, rank = dist.get_world_size(group), dist.get_rank(group)
        if (stage.stage, stage.num_stages) != (rank, n):
            raise ValueError(
                f"rank {rank} of {n} must hold stage {rank} of {n}; got stage {stage.stage} of {stage.num_stages}"
            )
        self.stage, self.group = stage, group
        self._ranks = [dist.get_global_rank(group, r) if group is not None else r for r in range(n)]
        self._forward_group, self._backward_group = (
            dist.new_group(self._ranks, timeout=timedelta(seconds=timeout_s), use_local_synchronization=True)
            for _ in range(2)
        )

    def step(
        self,
        inputs: Int[Tensor, "batch seq"],
        targets: Int[Tensor, "batch seq"],
        schedule: Schedule,
        *,
        loss_function: LossFunction = nn_utils.cross_entropy,
        precision: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    ) -> Float[Tensor, ""]:
        """Forward and backward of a batch; gradients are added to the stage's parameters.

        Args:
            inputs, targets: the whole batch, on every rank (only the first stage reads the inputs and the last the
                targets; the others need their shape). Micro-batches may differ by one row.
            schedule: a list of passes per stage, from `pipeline_schedule.SCHEDULES`.
            loss_function: (logits, targets) -> mean over the tokens; only the last stage calls it.
            precision: makes the context of a forward pass, such as an autocast; nothing special by default.

        Returns:
            Mean loss of the batch, on every rank.

        Raises:
            ValueError: a schedule for another number of stages, or more micro-batches than rows.
        """
        if len(schedule) != self.stage.num_stages:
            raise ValueError(f"the schedule is for {len(schedule)} stages; this pipeline has {self.stage.num_stages}")
        count = check_schedule(schedule)
        if count > inputs.shape[0]:
            raise ValueError(f"a batch of {inputs.shape[0]} rows cannot be cut into {count} micro-batches; use fewer")
        run = _Step(self, inputs.tensor_split(count), targets.tensor_split(count), loss_function, precision)
        for work in schedule[self.stage.stage]:
            run.perform(work)
        return run.finish()

    @torch.no_grad()
    def logits(
        self, token_ids: Int[Tensor, "batch seq"], cache: list[Any] | None = None, start: int = 0
    ) -> Float[Tensor, "batch seq vocab"]:
        """The model's logits on every rank, one stage after the other; for evaluation. Arguments as TransformerLM's."""
        stage, index = self.stage, self.stage.stage
        weight = next(stage.parameters())
        x = token_ids
        if not stage.is_first:
            x = self.receive(weight.new_empty((*token_ids.shape, stage.config.d_model)), index - 1, "forward")
        x = stage(x, cache, start).to(weight.dtype)
        if not stage.is_last:
            work = self.send(x, index + 1, "forward")
            x = weight.new_empty((*token_ids.shape, stage.config.vocab_size))
            if work is not None:
                work.wait()
        x = x.contiguous()
        dist.broadcast(x, self._ranks[-1], group=self.group)
        return x

    def send(self, tensor: Tensor, to: int, kind: str) -> dist.Work | None:
        """Start sending to a stage."""
        group = self._forward_group if kind == "forward" else self._backward_group
        return dist.isend(tensor.detach().contiguous(), self._ranks[to], group=group)

    def receive(self, like: Tensor, origin: int, kind: str) -> Tensor:
        """Wait for a tensor from a stage."""
        buffer = torch.empty_like(like, memory_format=torch.contiguous_format)
        group = self._forward_group if kind == "forward" else self._backward_group
        dist.recv(buffer, self._ranks[origin], group=group)
        return buffer


class _Step:
    """What a stage remembers during one step: activations that wait for their backward pass, and sends under way."""

    def __init__(
        self,
        pipeline: Pipeline,
        inputs: tuple[Tensor, ...],
        targets: tuple[Tensor, ...],
        loss_function: LossFunction,
        precision: Callable[[], contextlib.AbstractContextManager[Any]],
    ):
        self.pipeline, self.stage = pipeline, pipeline.stage
        self.inputs, self.targets, self.loss_function, self.precision = inputs, targets, loss_function, precision
        self.num_tokens = sum(ids.numel() for ids in inputs)
        self.waiting: dict[int, tuple[Tensor, Tensor]] = {}
        self.sends: list[tuple[Any, Tensor]] = []
        weight = next(self.stage.parameters())
        self.like = torch.empty(0, dtype=weight.dtype, device=weight.device)
        self.loss = torch.zeros((), dtype=torch.float64, device=weight.device)

    def perform(self, work: Pass) -> None:
        """Run one pass."""
        (self.forward if work.kind == "forward" else self.backward)(work.micro_batch)

    def forward(self, micro_batch: int) -> None:
        """Receive or look up the input, run the layers, send the output on."""
        ids, index = self.inputs[micro_batch], self.stage.stage
        if self.stage.is_first:
            x = ids
        else:
            shape = self.like.new_empty((*ids.shape, self.stage.config.d_model))
            x = self.pipeline.receive(shape, index - 1, "forward").requires_grad_()
        with self.precision():
            output = self.stage(x)
            if self.stage.is_last:
                share = ids.numel() / self.num_tokens
                output = self.loss_function(output, self.targets[micro_batch]) * share
                self.loss += output.detach()
        if not self.stage.is_last:
            output = output.to(self.like.dtype)
            self._send(output, index + 1, "forward")
        self.waiting[micro_batch] = (x, output)

    def backward(self, micro_batch: int) -> None:
        """Receive the output's gradient (the loss needs none), run backward, send the input's gradient back."""
        x, output = self.waiting.pop(micro_batch)
        index = self.stage.stage
        grad = None if self.stage.is_last else self.pipeline.receive(output, index + 1, "backward")
        torch.autograd.backward(output, grad)
        if not self.stage.is_first:
            assert x.grad is not None
            self._send(x.grad, index - 1, "backward")

    def _send(self, tensor: Tensor, to: int, kind: str) -> None:
        """Send without waiting; the tensor is kept until it has left."""
        self.sends = [(work, kept) for work, kept in self.sends if not work.is_completed()]
        self.sends.append((self.pipeline.send(tensor, to, kind), tensor))

    def finish(self) -> Tensor:
        """Wait for the sends; tell everyone the loss."""
        for work, _ in self.sends:
            work.wait()
        dist.broadcast(self.loss, self.pipeline._ranks[-1], group=self.pipeline.group)
        return self.loss.to(self.like.dtype)

"""The only door between the test suites and an implementation: glue without logic, for all assignments and editions.

A student replaces the body of each function by a call into their own code. Where editions of the course gave one name
two signatures, the function takes the union: the parameter order is that of the newest edition, older ones are told
apart by keyword (the suites call by keyword). Packages are imported inside the functions, so an unfinished module
breaks its own adapter only.

Shapes use the names of the handouts. Every mask means "True = may attend" unless a docstring says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import IO, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_NOT_GIVEN: Any = object()
PathLike = str | os.PathLike[str]
RewardFunction = Callable[[str, str], dict[str, float]]


# ---------------------------------------------------------------------------------------------------------------------
# Assignment 1, basics: layers
# ---------------------------------------------------------------------------------------------------------------------


def run_linear(
    d_in: int, d_out: int, weights: Float[Tensor, "d_out d_in"], in_features: Float[Tensor, "... d_in"]
) -> Float[Tensor, "... d_out"]:
    """Linear layer without bias: in_features (..., d_in) times the transpose of weights (d_out, d_in)."""
    from cs336_basics.model import Linear

    return _loaded(Linear(d_in, d_out), {"weight": weights})(in_features)


def run_embedding(
    vocab_size: int, d_model: int, weights: Float[Tensor, "vocab_size d_model"], token_ids: Int[Tensor, "..."]
) -> Float[Tensor, "... d_model"]:
    """Rows of weights (vocab_size, d_model) chosen by token_ids (...)."""
    from cs336_basics.model import Embedding

    return _loaded(Embedding(vocab_size, d_model), {"weight": weights})(token_ids)


def run_swiglu(
    d_model: int,
    d_ff: int,
    w1_weight: Float[Tensor, "d_ff d_model"],
    w2_weight: Float[Tensor, "d_model d_ff"],
    w3_weight: Float[Tensor, "d_ff d_model"],
    in_features: Float[Tensor, "... d_model"],
) -> Float[Tensor, "... d_model"]:
    """W2 (SiLU(W1 x) * W3 x) for in_features (..., d_model)."""
    from cs336_basics.model import SwiGLU

    weights = {"w1.weight": w1_weight, "w2.weight": w2_weight, "w3.weight": w3_weight}
    return _loaded(SwiGLU(d_model, d_ff), weights)(in_features)


def run_positionwise_feedforward(
    d_model: int, d_ff: int, weights: dict[str, Tensor], in_features: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... d_model"]:
    """Edition 2024: W2 GELU(W1 x); weights `w1.weight` (d_ff, d_model) and `w2.weight` (d_model, d_ff)."""
    from cs336_basics.model import FeedForward

    return _loaded(FeedForward(d_model, d_ff, activation="gelu"), weights)(in_features)


def run_scaled_dot_product_attention(
    Q: Float[Tensor, "... queries d_k"],
    K: Float[Tensor, "... keys d_k"],
    V: Float[Tensor, "... keys d_v"],
    mask: Bool[Tensor, "... queries keys"] | None = None,
    pdrop: float | None = _NOT_GIVEN,
) -> Float[Tensor, "... queries d_v"]:
    """softmax(Q K^T / sqrt(d_k)) V; mask True = may attend.

    Edition 2024 passes `pdrop` (even as 0.0 or None) and means the opposite by its mask: True = may NOT attend.
    """
    from cs336_basics.model import scaled_dot_product_attention

    if pdrop is not _NOT_GIVEN:
        _refuse_dropout(pdrop)
        mask = None if mask is None else ~mask
    return scaled_dot_product_attention(Q, K, V, mask)


def run_multihead_self_attention(
    d_model: int,
    num_heads: int,
    q_proj_weight: Float[Tensor, "d_model d_model"] = _NOT_GIVEN,
    k_proj_weight: Float[Tensor, "d_model d_model"] = _NOT_GIVEN,
    v_proj_weight: Float[Tensor, "d_model d_model"] = _NOT_GIVEN,
    o_proj_weight: Float[Tensor, "d_model d_model"] = _NOT_GIVEN,
    in_features: Float[Tensor, "... seq d_model"] = _NOT_GIVEN,
    *,
    weights: dict[str, Tensor] | None = None,
    attn_pdrop: float | None = 0.0,
) -> Float[Tensor, "... seq d_model"]:
    """Causal multi-head self-attention without RoPE; rows of the projections are head-major.

    Edition 2024 passes `weights` with `q_heads.{n}.weight`, `k_heads.{n}.weight`, `v_heads.{n}.weight` (each
    (d_model / num_heads, d_model)) and `output_proj.weight` instead of the four tensors.
    """
    from cs336_basics.model import CausalMultiHeadSelfAttention

    if weights is None:
        state = _attention_state(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    else:
        heads = {x: torch.cat([weights[f"{x}_heads.{n}.weight"] for n in range(num_heads)]) for x in "qkv"}
        state = _attention_state(heads["q"], heads["k"], heads["v"], weights["output_proj.weight"])
    _refuse_dropout(attn_pdrop)
    return _loaded(CausalMultiHeadSelfAttention(d_model, num_heads), state)(in_features)


def run_multihead_self_attention_with_rope(
    d_model: int,
    num_heads: int,
    max_seq_len: int,
    theta: float,
    q_proj_weight: Float[Tensor, "d_model d_model"],
    k_proj_weight: Float[Tensor, "d_model d_model"],
    v_proj_weight: Float[Tensor, "d_model d_model"],
    o_proj_weight: Float[Tensor, "d_model d_model"],
    in_features: Float[Tensor, "... seq d_model"],
    token_positions: Int[Tensor, "... seq"] | None = None,
) -> Float[Tensor, "... seq d_model"]:
    """Causal multi-head self-attention, RoPE of width d_model / num_heads on queries and keys of each head."""
    from cs336_basics.model import CausalMultiHeadSelfAttention, RotaryPositionalEmbedding

    rope = RotaryPositionalEmbedding(theta, d_model // num_heads, max_seq_len)
    state = _attention_state(q_proj_weight, k_proj_weight, v_proj_weight, o_proj_weight)
    return _loaded(CausalMultiHeadSelfAttention(d_model, num_heads, rope), state)(in_features, token_positions)


def run_rope(
    d_k: int,
    theta: float,
    max_seq_len: int,
    in_query_or_key: Float[Tensor, "... seq d_k"],
    token_positions: Int[Tensor, "... seq"],
) -> Float[Tensor, "... seq d_k"]:
    """Rotary position embedding on interleaved pairs (x0, x1), (x2, x3), ..."""
    from cs336_basics.model import RotaryPositionalEmbedding

    return RotaryPositionalEmbedding(theta, d_k, max_seq_len)(in_query_or_key, token_positions)


def run_transformer_block(
    d_model: int,
    num_heads: int,
    d_ff: int,
    max_seq_len: int | None = None,
    theta: float | None = None,
    weights: dict[str, Tensor] = _NOT_GIVEN,
    in_features: Float[Tensor, "batch seq d_model"] = _NOT_GIVEN,
    *,
    attn_pdrop: float | None = 0.0,
    residual_pdrop: float | None = 0.0,
) -> Float[Tensor, "batch seq d_model"]:
    """Pre-norm block with keys `attn.*`, `ln1.weight`, `ffn.*`, `ln2.weight`.

    `ffn.w3.weight` present means SwiGLU, else GELU (2024); theta None means no positions inside the block (2024).
    """
    from cs336_basics.model import ModelConfig, RotaryPositionalEmbedding, TransformerBlock

    max_seq_len = in_features.shape[-2] if max_seq_len is None else max_seq_len
    rope = None if theta is None else RotaryPositionalEmbedding(theta, d_model // num_heads, max_seq_len)
    config = ModelConfig(
        vocab_size=1,  # a block has no vocabulary
        context_length=max_seq_len,
        d_model=d_model,
        num_layers=1,
        num_heads=num_heads,
        d_ff=d_ff,
        ffn="swiglu" if "ffn.w3.weight" in weights else "gelu",
        attn_pdrop=attn_pdrop or 0.0,
        residual_pdrop=residual_pdrop or 0.0,
    )
    return _loaded(TransformerBlock(config, rope), weights)(in_features)


def run_transformer_lm(
    vocab_size: int,
    context_length: int,
    d_model: int,
    num_layers: int,
    num_heads: int,
    d_ff: int,
    rope_theta: float | None = None,
    weights: dict[str, Tensor] = _NOT_GIVEN,
    in_indices: Int[Tensor, "batch seq"] = _NOT_GIVEN,
    *,
    attn_pdrop: float | None = 0.0,
    residual_pdrop: float | None = 0.0,
) -> Float[Tensor, "batch seq vocab_size"]:
    """Next-token logits of the whole model for in_indices (batch, seq), seq <= context_length.

    The keys of `weights` choose the architecture: `position_embeddings.weight` means learned positions (2024),
    `ffn.w3.weight` SwiGLU. Edition 2024 holds the tied table twice; embedding and head are loaded as two equal tensors.
    """
    from cs336_basics.model import ModelConfig, TransformerLM

    unlearned = "none" if rope_theta is None else "rope"
    config = ModelConfig(
        vocab_size=vocab_size,
        context_length=context_length,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        d_ff=d_ff,
        rope_theta=10000.0 if rope_theta is None else rope_theta,
        positions="learned" if "position_embeddings.weight" in weights else unlearned,
        ffn="swiglu" if "layers.0.ffn.w3.weight" in weights else "gelu",
        attn_pdrop=attn_pdrop or 0.0,
        residual_pdrop=residual_pdrop or 0.0,
    )
    return _loaded(TransformerLM(config), weights)(in_indices)


def run_rmsnorm(
    d_model: int,
    eps: float,
    weights: Float[Tensor, " d_model"] | dict[str, Tensor],
    in_features: Float[Tensor, "... d_model"],
) -> Float[Tensor, "... d_model"]:
    """x * g / sqrt(mean(x^2) + eps); g is a tensor (d_model,) or, in edition 2024, a dict with the key `weight`."""
    from cs336_basics.model import RMSNorm

    state = weights if isinstance(weights, dict) else {"weight": weights}
    return _loaded(RMSNorm(d_model, eps), state)(in_features)


def run_silu(in_features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x * sigmoid(x), element by element."""
    from cs336_basics.nn_utils import silu

    return silu(in_features)


def run_gelu(in_features: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Edition 2024: the exact GELU, x * (1 + erf(x / sqrt 2)) / 2."""
    from cs336_basics.nn_utils import gelu

    return gelu(in_features)


def _loaded(module: torch.nn.Module, state: dict[str, Tensor]) -> torch.nn.Module:
    """The module in evaluation mode with exactly these weights."""
    module.load_state_dict(state, strict=True)
    return module.eval()


def _attention_state(q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> dict[str, Tensor]:
    return {"q_proj.weight": q, "k_proj.weight": k, "v_proj.weight": v, "output_proj.weight": o}


def _refuse_dropout(probability: float | None) -> None:
    if probability:
        raise ValueError(f"the adapters compare exact numbers, so dropout must be 0.0 or None; got {probability}")


# ---------------------------------------------------------------------------------------------------------------------
# Assignment 1, basics: loss, optimizer, data, checkpoints, tokenizer
# ---------------------------------------------------------------------------------------------------------------------


def run_get_batch(
    dataset: npt.NDArray[Any], batch_size: int, context_length: int, device: str
) -> tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]:
    """Inputs and targets, int64 (batch_size, context_length) on device; the target of a token is the next token."""
    from cs336_basics.data import get_batch

    return get_batch(dataset, batch_size, context_length, device)


def run_softmax(in_features: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
    """Softmax over dimension dim."""
    from cs336_basics.nn_utils import softmax

    return softmax(in_features, dim)


def run_cross_entropy(inputs: Float[Tensor, "... vocab_size"], targets: Int[Tensor, "..."]) -> Float[Tensor, ""]:
    """Mean cross-entropy in nats of logits (..., vocab_size) against targets (...)."""
    from cs336_basics.nn_utils import cross_entropy

    return cross_entropy(inputs, targets)


def run_gradient_clipping(parameters: Iterable[torch.nn.Parameter], max_l2_norm: float) -> None:
    """Scale all gradients in place so that their joint L2 norm is at most max_l2_norm."""
    from cs336_basics.nn_utils import clip_gradient

    clip_gradient(parameters, max_l2_norm)


def get_adamw_cls() -> type[torch.optim.Optimizer]:
    """The AdamW class, called as cls(params, lr=, betas=, eps=, weight_decay=)."""
    from cs336_basics.optimizer import AdamW

    return AdamW


def run_get_lr_cosine_schedule(
    it: int, max_learning_rate: float, min_learning_rate: float, warmup_iters: int, cosine_cycle_iters: int
) -> float:
    """Learning rate of step `it`: linear warm-up, cosine decay, then constant."""
    from cs336_basics.optimizer import get_lr_cosine_schedule

    return get_lr_cosine_schedule(it, max_learning_rate, min_learning_rate, warmup_iters, cosine_cycle_iters)


def run_save_checkpoint(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    iteration: int,
    out: PathLike | BinaryIO | IO[bytes],
) -> None:
    """Write model, optimizer and iteration to a path or a binary file object."""
    from cs336_basics.checkpoint import save_checkpoint

    save_checkpoint(model, optimizer, iteration, out)


def run_load_checkpoint(
    src: PathLike | BinaryIO | IO[bytes], model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Restore model and optimizer from a path or a binary file object; return the saved iteration."""
    from cs336_basics.checkpoint import load_checkpoint

    return load_checkpoint(src, model, optimizer)


def get_tokenizer(
    vocab: dict[int, bytes], merges: list[tuple[bytes, bytes]], special_tokens: list[str] | None = None
) -> Any:
    """A BPE tokenizer with encode, encode_iterable and decode."""
    from cs336_basics.tokenization.tokenizer import Tokenizer

    return Tokenizer(vocab, merges, special_tokens)


def run_train_bpe(
    input_path: PathLike, vocab_size: int, special_tokens: list[str], **kwargs: Any
) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    """Train byte-level BPE; special tokens are hard boundaries and enter the vocabulary. Returns (vocab, merges)."""
    from cs336_basics.tokenization.bpe import train_bpe

    return train_bpe(input_path, vocab_size, special_tokens, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Assignment 2, systems
# ---------------------------------------------------------------------------------------------------------------------


def get_rmsnorm_autograd_function_pytorch() -> type[torch.autograd.Function]:
    """Edition 2024: the autograd.Function class (not `.apply`) of RMSNorm; apply(x (..., H), g (H,)), eps 1e-5."""
    from cs336_systems.kernels.rmsnorm import RMSNormPyTorch

    return RMSNormPyTorch


def get_rmsnorm_autograd_function_triton() -> type[torch.autograd.Function]:
    """Edition 2024: as get_rmsnorm_autograd_function_pytorch, with Triton kernels."""
    from cs336_systems.kernels.rmsnorm import RMSNormTriton

    return RMSNormTriton


def rmsnorm_backward_g_pytorch(
    grad_output: Float[Tensor, "... hidden"], x: Float[Tensor, "... hidden"], g: Float[Tensor, " hidden"]
) -> Float[Tensor, " hidden"]:
    """Edition 2024: gradient of RMSNorm with respect to g, shape (H,)."""
    from cs336_systems.kernels.rmsnorm import rms_norm_backward_g

    return rms_norm_backward_g(grad_output, x, g)


def rmsnorm_backward_x_pytorch(
    grad_output: Float[Tensor, "... hidden"], x: Float[Tensor, "... hidden"], g: Float[Tensor, " hidden"]
) -> Float[Tensor, "... hidden"]:
    """Edition 2024: gradient of RMSNorm with respect to x, shape of x."""
    from cs336_systems.kernels.rmsnorm import rms_norm_backward_x

    return rms_norm_backward_x(grad_output, x, g)


def get_flashattention_autograd_function_pytorch() -> type[torch.autograd.Function]:
    """The autograd.Function class of FlashAttention-2 in PyTorch; apply(q, k, v, is_causal) on (batch, seq, d)."""
    from cs336_systems.kernels.flash_attention import FlashAttentionPyTorch

    return FlashAttentionPyTorch


def get_flashattention_autograd_function_triton() -> type[torch.autograd.Function]:
    """As get_flashattention_autograd_function_pytorch, with a Triton kernel."""
    from cs336_systems.kernels.flash_attention_triton import FlashAttentionTriton

    return FlashAttentionTriton


def get_ddp(module: torch.nn.Module) -> torch.nn.Module:
    """A container that broadcasts the module from rank 0 and averages each gradient as soon as it is ready."""
    from cs336_systems.parallel.ddp import DDP

    return DDP(module)


def ddp_on_after_backward(ddp_model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Called after backward and before the optimizer step: wait for the communication of get_ddp."""
    ddp_model.finish_gradient_synchronization()


def get_ddp_individual_parameters(module: torch.nn.Module) -> torch.nn.Module:
    """Editions 2024 and 2025: the name get_ddp had."""
    return get_ddp(module)


def ddp_individual_parameters_on_after_backward(ddp_model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Editions 2024 and 2025: the name ddp_on_after_backward had."""
    ddp_model.finish_gradient_synchronization()


def get_ddp_bucketed(module: torch.nn.Module, bucket_size_mb: float | None) -> torch.nn.Module:
    """Editions 2024 and 2025: DDP with gradients sent in buckets of at most bucket_size_mb (None = one bucket)."""
    from cs336_systems.parallel.ddp import DDPBucketed

    return DDPBucketed(module, bucket_size_mb)


def ddp_bucketed_on_after_backward(ddp_model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Editions 2024 and 2025: wait for all buckets."""
    ddp_model.finish_gradient_synchronization()


def ddp_bucketed_on_train_batch_start(ddp_model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Editions 2024 and 2025: called before zero_grad of each step; resets the bucket counters."""
    ddp_model.start_batch()


def get_fsdp(module: torch.nn.Module, compute_dtype: torch.dtype | None = None) -> torch.nn.Module:
    """Fully sharded data parallel: Linear and Embedding weights are split over the ranks."""
    from cs336_systems.parallel.fsdp import FSDP

    return FSDP(module, compute_dtype)


def fsdp_on_after_backward(fsdp_model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Called after backward and before the optimizer step: finish the gradients."""
    fsdp_model.finish_gradient_synchronization()


def fsdp_gather_full_params(fsdp_model: torch.nn.Module) -> dict[str, Tensor]:
    """All parameters in full, by their name in the wrapped module; called on all ranks."""
    return fsdp_model.gather_full_params()


def get_sharded_optimizer(
    params: Iterable[torch.nn.Parameter], optimizer_cls: type[torch.optim.Optimizer], **kwargs: Any
) -> torch.optim.Optimizer:
    """An optimizer whose state is split over the ranks; kwargs go to optimizer_cls."""
    from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer

    return ShardedOptimizer(params, optimizer_cls, **kwargs)


# ---------------------------------------------------------------------------------------------------------------------
# Assignment 3, scaling (the course publishes none; these are ours)
# ---------------------------------------------------------------------------------------------------------------------


def run_isoflops_optima(runs: list[dict[str, float]], method: str) -> dict[float, tuple[float, float]]:
    """For each compute budget (FLOPs): (optimal parameters, optimal loss); runs as in the handout's file.

    method: "lowest" (the run with the least loss) or "parabola" (in ln N, through all runs of the budget).
    """
    from cs336_scaling.isoflops import isoflops_optima
    from cs336_scaling.runs_table import from_records

    optima = isoflops_optima(from_records(runs), method)  # type: ignore[arg-type]
    return {optimum.budget: (optimum.parameters, optimum.loss) for optimum in optima}


def run_fit_power_law(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[float, float]:
    """(k, a) of y = k x^a, fitted in the logarithm."""
    from cs336_scaling.power_law import fit_power_law

    law = fit_power_law(x, y)
    return law.k, law.a


def run_fit_parametric(
    N: npt.NDArray[np.float64], D: npt.NDArray[np.float64], L: npt.NDArray[np.float64]
) -> tuple[float, float, float, float, float]:
    """(E, A, B, alpha, beta) of L = E + A / N^alpha + B / D^beta; N parameters, D tokens, L loss in nats.

    What is minimised is the sum of Huber losses of ln L with delta = 1e-3.
    """
    from cs336_scaling.parametric import fit_parametric
    from cs336_scaling.runs_table import RunTable

    return fit_parametric(RunTable(N, D, 6 * N * D, L)).law.as_tuple()


def run_optimal_allocation(params: tuple[float, float, float, float, float], C: float) -> tuple[float, float]:
    """(parameters, tokens) that minimise the parametric loss (E, A, B, alpha, beta) under C = 6 N D FLOPs."""
    from cs336_scaling.parametric_law import ParametricLaw

    parameters, tokens = ParametricLaw(*params).allocation(C)
    return float(parameters), float(tokens)


def run_count_flops(config: Any) -> float:
    """Training FLOPs of a configuration, the head and the whole of attention counted.

    config: a dictionary with num_layers, d_model, vocab_size, context_length and num_tokens (those trained on). Per
    token 6 (12 L d^2 + V d) + 12 L d T.
    """
    from cs336_scaling.flops import shape_flops

    return shape_flops(**config)["matrix_products"]


def run_scaling_service(url: str) -> Any:
    """A client of the training service at url; it has the course's functions as methods, the key is in A3_API_KEY."""
    from cs336_scaling.client import Client

    return Client(url)


# ---------------------------------------------------------------------------------------------------------------------
# Assignment 4, data
# ---------------------------------------------------------------------------------------------------------------------


def run_extract_text_from_html_bytes(html_bytes: bytes) -> str | None:
    """Plain text of an HTML page in any encoding."""
    from cs336_data.extraction import extract_text_from_html_bytes

    return extract_text_from_html_bytes(html_bytes)


def run_identify_language(text: str) -> tuple[Any, float]:
    """(language code such as "en" or "zh", score in [0, 1])."""
    from cs336_data.language import identify_language

    return identify_language(text)


def run_mask_emails(text: str) -> tuple[str, int]:
    """(text with e-mail addresses replaced by |||EMAIL_ADDRESS|||, number replaced)."""
    from cs336_data.pii import mask_emails

    return mask_emails(text)


def run_mask_phone_numbers(text: str) -> tuple[str, int]:
    """(text with US phone numbers replaced by |||PHONE_NUMBER|||, number replaced)."""
    from cs336_data.pii import mask_phone_numbers

    return mask_phone_numbers(text)


def run_mask_ips(text: str) -> tuple[str, int]:
    """(text with IPv4 addresses replaced by |||IP_ADDRESS|||, number replaced)."""
    from cs336_data.pii import mask_ips

    return mask_ips(text)


def run_classify_nsfw(text: str) -> tuple[Any, float]:
    """("nsfw" or "non-nsfw", score)."""
    from cs336_data.toxicity import classify_nsfw

    return classify_nsfw(text)


def run_classify_toxic_speech(text: str) -> tuple[Any, float]:
    """("toxic" or "non-toxic", score)."""
    from cs336_data.toxicity import classify_toxic_speech

    return classify_toxic_speech(text)


def run_classify_quality(text: str) -> tuple[Any, float]:
    """("wiki" or "cc", score)."""
    from cs336_data.quality_classifier import classify_quality

    return classify_quality(text)


def run_gopher_quality_filter(text: str) -> bool:
    """True when the text passes the Gopher rules."""
    from cs336_data.rules.gopher import gopher_quality_filter

    return gopher_quality_filter(text)


def run_exact_line_deduplication(input_files: list[PathLike], output_directory: PathLike) -> None:
    """Copy each file without the lines that occur more than once in the whole collection."""
    from cs336_data.deduplication.exact_lines import deduplicate_lines

    deduplicate_lines(input_files, output_directory)


def run_minhash_deduplication(
    input_files: list[PathLike],
    num_hashes: int,
    num_bands: int,
    ngrams: int,
    jaccard_threshold: float,
    output_directory: PathLike,
) -> None:
    """Copy one file of each cluster of near duplicates."""
    from cs336_data.deduplication.minhash import MinHashConfig
    from cs336_data.deduplication.near_duplicates import deduplicate_near

    config = MinHashConfig(num_hashes=num_hashes, num_bands=num_bands, ngrams=ngrams, threshold=jaccard_threshold)
    deduplicate_near(input_files, output_directory, config)


# ---------------------------------------------------------------------------------------------------------------------
# Assignment 5, alignment
# ---------------------------------------------------------------------------------------------------------------------


def run_tokenize_prompt_and_output(prompt_strs: list[str], output_strs: list[str], tokenizer: Any) -> dict[str, Tensor]:
    """`input_ids`, `labels` (int64) and `response_mask` (bool, aligned with labels), each (batch, longest - 1)."""
    from cs336_alignment.response_tokens import tokenize_prompt_and_output

    return tokenize_prompt_and_output(prompt_strs, output_strs, tokenizer)


def run_get_response_log_probs(
    model: torch.nn.Module,
    input_ids: Int[Tensor, "batch seq"],
    labels: Int[Tensor, "batch seq"],
    return_token_entropy: bool = False,
) -> dict[str, Float[Tensor, "batch seq"]]:
    """`log_probs` of the labels in nats and, when asked for, `token_entropy`."""
    from cs336_alignment.response_log_probs import get_response_log_probs

    return get_response_log_probs(model, input_ids, labels, return_token_entropy)


def run_compute_entropy(logits: Float[Tensor, "batch seq vocab_size"]) -> Float[Tensor, "batch seq"]:
    """Edition 2025: entropy in nats of each next-token distribution."""
    from cs336_alignment.response_log_probs import compute_entropy

    return compute_entropy(logits)


def run_masked_normalize(
    tensor: Float[Tensor, "..."],
    mask: Bool[Tensor, "..."],
    dim: int | None = None,
    normalize_constant: float = 1.0,
) -> Tensor:
    """Edition 2025: sum of the masked elements over dim, divided by a constant."""
    from cs336_alignment.response_log_probs import masked_normalize

    return masked_normalize(tensor, mask, dim, normalize_constant)


def run_masked_mean(tensor: Float[Tensor, "..."], mask: Bool[Tensor, "..."], dim: int | None = None) -> Tensor:
    """Edition 2025: mean of the masked elements over dim; NaN where nothing is selected."""
    from cs336_alignment.response_log_probs import masked_mean

    return masked_mean(tensor, mask, dim)


def run_sft_microbatch_train_step(
    policy_log_probs: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    gradient_accumulation_steps: int,
    normalize_constant: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Edition 2025: backward of one microbatch of supervised fine-tuning; returns (scaled loss, metadata)."""
    from cs336_alignment.course_2025 import sft_microbatch_train_step

    return sft_microbatch_train_step(policy_log_probs, response_mask, gradient_accumulation_steps, normalize_constant)


def run_compute_rollout_rewards(
    reward_fn: RewardFunction, rollout_responses: list[str], repeated_ground_truths: list[str]
) -> tuple[Float[Tensor, " rollouts"], dict[str, float]]:
    """(reward of each response, metadata)."""
    from cs336_alignment.advantages import compute_rollout_rewards

    return compute_rollout_rewards(reward_fn, rollout_responses, repeated_ground_truths)


def run_compute_group_normalized_rewards(
    raw_rewards: Float[Tensor, " rollouts"] = _NOT_GIVEN,
    group_size: int = _NOT_GIVEN,
    baseline: Literal["mean", "none"] = "mean",
    advantage_eps: float = 1e-6,
    advantage_normalizer: Literal["std", "none", "mean"] = "std",
    *,
    reward_fn: RewardFunction | None = None,
    rollout_responses: list[str] | None = None,
    repeated_ground_truths: list[str] | None = None,
    normalize_by_std: bool | None = None,
) -> tuple[Any, ...]:
    """(advantages (rollouts,), metadata).

    Edition 2025 passes reward_fn, rollout_responses, repeated_ground_truths and normalize_by_std instead of
    raw_rewards, and expects (advantages, raw_rewards, metadata).
    """
    from cs336_alignment import advantages, course_2025

    if reward_fn is not None:
        assert rollout_responses is not None and repeated_ground_truths is not None and normalize_by_std is not None
        return course_2025.compute_group_normalized_rewards(
            reward_fn, rollout_responses, repeated_ground_truths, group_size, advantage_eps, normalize_by_std
        )
    return advantages.compute_group_normalized_rewards(
        raw_rewards, group_size, baseline, advantage_eps, advantage_normalizer
    )


def run_compute_naive_policy_gradient_loss(
    raw_rewards_or_advantages: Float[Tensor, "batch 1"], policy_log_probs: Float[Tensor, "batch seq"]
) -> Float[Tensor, "batch seq"]:
    """Edition 2025: minus advantage times log-probability, per token."""
    from cs336_alignment.policy_gradient import reinforce_loss

    return reinforce_loss(raw_rewards_or_advantages, policy_log_probs)


def run_compute_grpo_clip_loss(
    advantages: Float[Tensor, "batch 1"],
    policy_log_probs: Float[Tensor, "batch seq"],
    old_log_probs: Float[Tensor, "batch seq"],
    cliprange: float,
) -> tuple[Float[Tensor, "batch seq"], dict[str, Tensor]]:
    """Edition 2025: clipped surrogate loss per token and metadata."""
    from cs336_alignment.course_2025 import compute_grpo_clip_loss

    return compute_grpo_clip_loss(advantages, policy_log_probs, old_log_probs, cliprange)


def run_compute_policy_gradient_loss(
    raw_rewards_or_advantages: Float[Tensor, "batch ..."] = _NOT_GIVEN,
    policy_log_probs: Float[Tensor, "batch seq"] = _NOT_GIVEN,
    importance_reweighting_method: Literal["none", "noclip", "grpo", "gspo"] = "none",
    old_log_probs: Float[Tensor, "batch seq"] | None = None,
    cliprange: float | None = None,
    response_mask: Bool[Tensor, "batch seq"] | None = None,
    *,
    loss_type: str | None = None,
    raw_rewards: Float[Tensor, "batch 1"] | None = None,
    advantages: Float[Tensor, "batch 1"] | None = None,
) -> tuple[Float[Tensor, "batch seq"], dict[str, Tensor]]:
    """(loss per token, metadata).

    Edition 2025 passes loss_type ("no_baseline", "reinforce_with_baseline", "grpo_clip"), raw_rewards and advantages.
    """
    from cs336_alignment import course_2025, policy_gradient

    if loss_type is not None:
        return course_2025.compute_policy_gradient_loss(
            policy_log_probs, loss_type, raw_rewards, advantages, old_log_probs, cliprange
        )
    return policy_gradient.compute_policy_gradient_loss(
        raw_rewards_or_advantages, policy_log_probs, importance_reweighting_method, old_log_probs, cliprange,
        response_mask,
    )  # fmt: skip


def run_grpo_microbatch_train_step(
    policy_log_probs: Float[Tensor, "batch seq"],
    response_mask: Bool[Tensor, "batch seq"],
    gradient_accumulation_steps: int,
    loss_type: str,
    raw_rewards: Float[Tensor, "batch 1"] | None = None,
    advantages: Float[Tensor, "batch 1"] | None = None,
    old_log_probs: Float[Tensor, "batch seq"] | None = None,
    cliprange: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Edition 2025: backward of one GRPO microbatch; returns (scaled loss, metadata)."""
    from cs336_alignment.course_2025 import grpo_microbatch_train_step

    return grpo_microbatch_train_step(
        policy_log_probs, response_mask, gradient_accumulation_steps, loss_type, raw_rewards, advantages,
        old_log_probs, cliprange,
    )  # fmt: skip


def run_aggregate_loss_across_microbatch(
    per_token_policy_gradient_loss: Float[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"],
    loss_normalization: Literal["sequence", "constant"] = "sequence",
    normalization_constant: float | None = None,
) -> Float[Tensor, ""]:
    """Mean over rows of the masked mean, or the masked total divided by a constant."""
    from cs336_alignment.policy_gradient import aggregate_loss_across_microbatch

    return aggregate_loss_across_microbatch(
        per_token_policy_gradient_loss, mask, loss_normalization, normalization_constant
    )


def run_grpo_train_step(
    model: torch.nn.Module,
    tokenizer: Any,
    optimizer: torch.optim.Optimizer,
    gradient_accumulation_steps: int,
    max_grad_norm: float | None,
    reward_fn: RewardFunction,
    repeated_prompts: list[str],
    rollout_responses: list[str],
    repeated_ground_truths: list[str],
    group_size: int,
    baseline: Literal["mean", "none"] = "mean",
    advantage_eps: float = 1e-6,
    advantage_normalizer: Literal["std", "none", "mean"] = "std",
    importance_reweighting_method: Literal["none", "noclip", "grpo", "gspo"] = "none",
    old_log_probs: Float[Tensor, "rollouts seq"] | None = None,
    cliprange: float | None = None,
    loss_normalization: Literal["sequence", "constant"] = "sequence",
    normalization_constant: float | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """One optimizer step on a batch of rollouts; returns (loss, metadata) and leaves every gradient None."""
    from cs336_alignment.grpo_step import grpo_train_step

    return grpo_train_step(
        model, tokenizer, optimizer, gradient_accumulation_steps, max_grad_norm, reward_fn, repeated_prompts,
        rollout_responses, repeated_ground_truths, group_size, baseline, advantage_eps, advantage_normalizer,
        importance_reweighting_method, old_log_probs, cliprange, loss_normalization, normalization_constant,
    )  # fmt: skip


def get_packed_sft_dataset(tokenizer: Any, dataset_path: PathLike, seq_length: int, shuffle: bool) -> Dataset[Any]:
    """Packed instruction data: items with `input_ids` and `labels`, int64 (seq_length,)."""
    from cs336_alignment.packed_dataset import PackedDataset

    return PackedDataset(tokenizer, dataset_path, seq_length, shuffle)


def run_iterate_batches(dataset: Dataset[Any], batch_size: int, shuffle: bool) -> DataLoader[Any]:
    """Batches of one epoch; the last may be short."""
    from cs336_alignment.packed_dataset import iterate_batches

    return iterate_batches(dataset, batch_size, shuffle)


def run_parse_mmlu_response(mmlu_example: dict[str, Any], model_output: str) -> str | None:
    """The predicted letter, "A" to "D", or None."""
    from cs336_alignment.answer_parsing import parse_mmlu_response

    return parse_mmlu_response(mmlu_example, model_output)


def run_parse_gsm8k_response(model_output: str) -> str | None:
    """The last number of the output as a string, or None."""
    from cs336_alignment.answer_parsing import parse_gsm8k_response

    return parse_gsm8k_response(model_output)


def run_compute_per_instance_dpo_loss(
    lm: torch.nn.Module,
    lm_ref: torch.nn.Module,
    tokenizer: Any,
    beta: float,
    prompt: str,
    response_chosen: str,
    response_rejected: str,
) -> Float[Tensor, ""]:
    """DPO loss of one pair of responses."""
    from cs336_alignment.dpo import compute_per_instance_dpo_loss as loss_of_pair

    return loss_of_pair(lm, lm_ref, tokenizer, beta, prompt, response_chosen, response_rejected)


def compute_per_instance_dpo_loss(
    lm: torch.nn.Module,
    lm_ref: torch.nn.Module,
    tokenizer: Any,
    beta: float,
    prompt: str,
    response_chosen: str,
    response_rejected: str,
) -> Float[Tensor, ""]:
    """Edition 2024: the name run_compute_per_instance_dpo_loss had."""
    return run_compute_per_instance_dpo_loss(lm, lm_ref, tokenizer, beta, prompt, response_chosen, response_rejected)

"""What a student has done to tests/adapters.py, read from its syntax tree without running it.

Per adapter of the assignment: filled, missing (gone, or still `raise NotImplementedError`), or with another signature
than the handout's. Read next: `check.py`.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

PROBLEMS: dict[str, dict[str, tuple[float, str, str]]] = {
    # adapter -> (points of its problem, slug, lecture)
    "basics": {
        "run_train_bpe": (15, "train_bpe", "1, tokenization"),
        "get_tokenizer": (15, "tokenizer", "1, tokenization"),
        "run_linear": (1, "linear", "2, PyTorch and resources"),
        "run_embedding": (1, "embedding", "2, PyTorch and resources"),
        "run_rmsnorm": (1, "rmsnorm", "3, architectures"),
        "run_swiglu": (2, "positionwise_feedforward", "3, architectures"),
        "run_rope": (2, "rope", "3, architectures"),
        "run_softmax": (1, "softmax", "2, PyTorch and resources"),
        "run_scaled_dot_product_attention": (5, "scaled_dot_product_attention", "3, architectures"),
        "run_multihead_self_attention": (5, "multihead_self_attention", "3, architectures"),
        "run_multihead_self_attention_with_rope": (0, "multihead_self_attention", "3, architectures"),
        "run_transformer_block": (3, "transformer_block", "3, architectures"),
        "run_transformer_lm": (3, "transformer_lm", "3, architectures"),
        "run_cross_entropy": (1, "cross_entropy", "2, PyTorch and resources"),
        "get_adamw_cls": (2, "adamw", "2, PyTorch and resources"),
        "run_get_lr_cosine_schedule": (1, "learning_rate_schedule", "3, hyperparameters"),
        "run_gradient_clipping": (1, "gradient_clipping", "3, hyperparameters"),
        "run_get_batch": (2, "data_loading", "2, PyTorch and resources"),
        "run_save_checkpoint": (1, "checkpointing", "2, PyTorch and resources"),
        "run_load_checkpoint": (0, "checkpointing", "2, PyTorch and resources"),
    },
    "systems": {  # flash_backward, naive_ddp and the 2024 kernels share adapters with what stands here
        "get_flashattention_autograd_function_pytorch": (15, "flash_forward", "6, kernels and Triton"),
        "get_flashattention_autograd_function_triton": (5, "flash_backward", "6, kernels and Triton"),
        "get_ddp": (5, "naive_ddp", "8, parallelism in practice"),
        "ddp_on_after_backward": (0, "naive_ddp", "8, parallelism in practice"),
        "get_ddp_individual_parameters": (5, "ddp_overlap_individual_parameters", "8, parallelism in practice"),
        "ddp_individual_parameters_on_after_backward": (
            0,
            "ddp_overlap_individual_parameters",
            "8, parallelism in practice",
        ),
        "get_ddp_bucketed": (10, "ddp_overlap_bucketed", "8, parallelism in practice"),
        "ddp_bucketed_on_after_backward": (0, "ddp_overlap_bucketed", "8, parallelism in practice"),
        "ddp_bucketed_on_train_batch_start": (0, "ddp_overlap_bucketed", "8, parallelism in practice"),
        "get_sharded_optimizer": (15, "optimizer_state_sharding", "8, parallelism in practice"),
        "get_fsdp": (15, "fsdp", "8, parallelism in practice"),
        "fsdp_on_after_backward": (0, "fsdp", "8, parallelism in practice"),
        "fsdp_gather_full_params": (0, "fsdp", "8, parallelism in practice"),
        "get_rmsnorm_autograd_function_pytorch": (10, "triton_rmsnorm_forward", "6, kernels and Triton"),
        "get_rmsnorm_autograd_function_triton": (0, "triton_rmsnorm_forward", "6, kernels and Triton"),
        "rmsnorm_backward_g_pytorch": (4, "rmsnorm_jvp_g", "6, kernels and Triton"),
        "rmsnorm_backward_x_pytorch": (8, "rmsnorm_jvp_x", "6, kernels and Triton"),
    },
    "scaling": {
        "run_isoflops_optima": (5, "chinchilla_isoflops", "9, scaling laws"),
        "run_fit_power_law": (0, "chinchilla_isoflops", "9, scaling laws"),
        "run_fit_parametric": (5, "parametric_fit", "11, scaling laws in practice"),
        "run_optimal_allocation": (2, "optimal_allocation", "9, scaling laws"),
        "run_count_flops": (2, "count_flops", "2, PyTorch and resources"),
        "run_scaling_service": (6, "service_client", "11, scaling laws in practice"),
    },
    "data": {
        "run_extract_text_from_html_bytes": (3, "extract_text", "13, data"),
        "run_identify_language": (6, "language_identification", "14, filtering"),
        "run_mask_emails": (3, "mask_pii", "14, filtering"),
        "run_mask_phone_numbers": (0, "mask_pii", "14, filtering"),
        "run_mask_ips": (0, "mask_pii", "14, filtering"),
        "run_classify_nsfw": (6, "harmful_content", "14, filtering"),
        "run_classify_toxic_speech": (0, "harmful_content", "14, filtering"),
        "run_gopher_quality_filter": (3, "gopher_quality_filters", "14, filtering"),
        "run_classify_quality": (15, "quality_classifier", "14, filtering"),
        "run_exact_line_deduplication": (3, "exact_deduplication", "14, deduplication"),
        "run_minhash_deduplication": (8, "minhash_deduplication", "14, deduplication"),
    },
    "alignment": {
        "run_tokenize_prompt_and_output": (2, "tokenize_prompt_and_output", "15, instruction tuning"),
        "run_compute_entropy": (1, "compute_entropy", "15, instruction tuning"),
        "run_get_response_log_probs": (2, "get_response_log_probs", "15, instruction tuning"),
        "run_masked_normalize": (1, "masked_normalize", "15, instruction tuning"),
        "run_masked_mean": (1, "masked_mean", "15, instruction tuning"),
        "run_sft_microbatch_train_step": (3, "sft_microbatch_train_step", "15, instruction tuning"),
        "run_compute_group_normalized_rewards": (2, "compute_group_normalized_rewards", "16, reinforcement learning"),
        "run_compute_naive_policy_gradient_loss": (
            1,
            "compute_naive_policy_gradient_loss",
            "16, reinforcement learning",
        ),
        "run_compute_grpo_clip_loss": (2, "compute_grpo_clip_loss", "17, policy gradient"),
        "run_compute_policy_gradient_loss": (1, "compute_policy_gradient_loss", "17, policy gradient"),
        "run_grpo_microbatch_train_step": (3, "grpo_microbatch_train_step", "17, policy gradient"),
        "run_compute_rollout_rewards": (1, "compute_rollout_rewards", "16, reinforcement learning"),
        "run_aggregate_loss_across_microbatch": (1, "aggregate_loss_across_microbatch", "17, policy gradient"),
        "run_grpo_train_step": (10, "grpo_train_step", "17, policy gradient"),
        "get_packed_sft_dataset": (3, "data_loading", "15, instruction tuning"),
        "run_iterate_batches": (0, "data_loading", "15, instruction tuning"),
        "run_parse_mmlu_response": (1, "parse_mmlu_response", "12, evaluation"),
        "run_parse_gsm8k_response": (1, "parse_gsm8k_response", "12, evaluation"),
        "run_compute_per_instance_dpo_loss": (2, "dpo_loss", "15, preferences"),
    },
}


@dataclass(frozen=True)
class AdapterState:
    """One adapter."""

    name: str
    slug: str
    points: float
    lecture: str
    state: str
    """filled, missing, or wrong signature"""
    line: int = 0
    note: str = ""


def adapter_states(folder: Path, assignment: str) -> list[AdapterState]:
    """The state of every adapter of the assignment, in the handout's order.

    Raises:
        ValueError: an assignment without a list of adapters, or a file that does not parse.
        FileNotFoundError: no tests/adapters.py in `folder`.
    """
    if assignment not in PROBLEMS:
        raise ValueError(f"no list of adapters for {assignment!r} yet; there are {', '.join(PROBLEMS)}")
    path = folder / "tests" / "adapters.py"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; run this from the assignment's folder, or give it with --folder")
    try:
        found = _functions(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} does not parse: {error}") from error
    expected = _functions((Path(__file__).parents[2] / "tests" / "adapters.py").read_bytes())
    return [_state(name, values, found.get(name), expected[name]) for name, values in PROBLEMS[assignment].items()]


def _functions(source: bytes) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


def _state(
    name: str, values: tuple[float, str, str], found: ast.FunctionDef | None, expected: ast.FunctionDef
) -> AdapterState:
    points, slug, lecture = values
    if found is None:
        return AdapterState(name, slug, points, lecture, "missing", note="the function is gone")
    if _raises_only(found):
        return AdapterState(name, slug, points, lecture, "missing", found.lineno)
    wanted, given = _parameters(expected), _parameters(found)
    lost = [parameter for parameter in wanted if parameter not in given]
    if lost and found.args.kwarg is None:
        return AdapterState(name, slug, points, lecture, "wrong signature", found.lineno, f"lacks {', '.join(lost)}")
    return AdapterState(name, slug, points, lecture, "filled", found.lineno)


def _raises_only(node: ast.FunctionDef) -> bool:
    """Whether nothing but a docstring and `raise NotImplementedError` is there."""
    body = [statement for statement in node.body if not isinstance(statement, (ast.Expr, ast.Pass))]
    return all(isinstance(statement, ast.Raise) and "NotImplementedError" in ast.dump(statement) for statement in body)


def _parameters(node: ast.FunctionDef) -> list[str]:
    return [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]

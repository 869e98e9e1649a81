"""Assignment 5: slug -> (points, generator of cases). Signatures of 2025, those that 2026 changed, and the supplement.


The parsers are a point each of the four of mmlu_baseline and gsm8k_baseline; the rest of those is judged by hand.
"""

from __future__ import annotations

from . import alignment_2026, alignment_policy, alignment_scoring, alignment_supplement

PROBLEMS = {
    "tokenize_prompt_and_output": (2, alignment_scoring.tokenize_prompt_and_output),
    "compute_entropy": (1, alignment_scoring.compute_entropy),
    "get_response_log_probs": (2, alignment_scoring.get_response_log_probs),
    "masked_normalize": (1, alignment_scoring.masked_normalize),
    "sft_microbatch_train_step": (3, alignment_scoring.sft_microbatch_train_step),
    "compute_group_normalized_rewards": (2, alignment_policy.compute_group_normalized_rewards),
    "compute_naive_policy_gradient_loss": (1, alignment_policy.compute_naive_policy_gradient_loss),
    "compute_grpo_clip_loss": (2, alignment_policy.compute_grpo_clip_loss),
    "compute_policy_gradient_loss": (1, alignment_policy.compute_policy_gradient_loss),
    "masked_mean": (1, alignment_scoring.masked_mean),
    "grpo_microbatch_train_step": (3, alignment_policy.grpo_microbatch_train_step),
    "data_loading": (3, alignment_supplement.data_loading),
    "parse_mmlu_response": (1, alignment_supplement.parse_mmlu_response),
    "parse_gsm8k_response": (1, alignment_supplement.parse_gsm8k_response),
    "dpo_loss": (2, alignment_supplement.dpo_loss),
    **alignment_2026.PROBLEMS,
}
SUPPLEMENT = {
    slug: PROBLEMS[slug][0] for slug in ("data_loading", "parse_mmlu_response", "parse_gsm8k_response", "dpo_loss")
}
NEW = {slug: points for slug, (points, _) in alignment_2026.PROBLEMS.items()}
EDITIONS = {
    "2024": SUPPLEMENT,
    "2025": {slug: points for slug, (points, _) in PROBLEMS.items() if slug not in NEW},
    "2026": {"tokenize_prompt_and_output": 1, "get_response_log_probs": 1, **NEW, **SUPPLEMENT},
}
"""year -> points of its problems"""

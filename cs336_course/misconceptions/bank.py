"""What a misconception is: a name, a sentence, a small example that shows it, and the wrong code itself.

    failing output of a student == output of a wrong implementation on the same input   =>   that is the mistake

The bank serves twice: `diagnosis.py` compares a failing output with what each entry of its slug would give, and
`selftest.py` hands every entry in as if it were a student's, to see that the hidden suite notices. Read next:
`layers.py`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

READ = {
    "train_bpe": "the handout's section on BPE training, and its worked example",
    "tokenizer": "the handout's section on encoding and decoding text",
    "linear": "the handout's note on row vectors: y = x W^T",
    "embedding": "the handout's section on the embedding module",
    "rmsnorm": "Zhang and Sennrich 2019, equation 4",
    "positionwise_feedforward": "Shazeer 2020, `GLU Variants Improve Transformer`, equation 6",
    "rope": "Su et al. 2021, section 3.2",
    "softmax": "the handout's remark on numerical stability",
    "scaled_dot_product_attention": "Vaswani et al. 2017, section 3.2.1",
    "multihead_self_attention": "Vaswani et al. 2017, section 3.2.2",
    "transformer_block": "Xiong et al. 2020, figure 1 (pre-norm)",
    "transformer_lm": "the handout's figure of the whole model",
    "cross_entropy": "the handout's formula of the loss, in log-sum-exp form",
    "adamw": "Loshchilov and Hutter 2019, algorithm 2",
    "learning_rate_schedule": "the handout's three cases of the cosine schedule",
    "gradient_clipping": "the handout's section on gradient clipping",
    "data_loading": "the handout's section on the data loader",
    "checkpointing": "the handout's section on checkpointing",
    "chinchilla_isoflops": "Hoffmann et al. 2022 (Chinchilla), section 3.2",
    "parametric_fit": "Hoffmann et al. 2022 (Chinchilla), section 3.3",
    "optimal_allocation": "Hoffmann et al. 2022 (Chinchilla), equation 4",
    "count_flops": "Hoffmann et al. 2022 (Chinchilla), appendix F",
    "service_client": "the handout's table of the service's paths",
    "flash_forward": "Dao 2023 (FlashAttention-2), algorithm 1",
    "flash_backward": "Dao 2023 (FlashAttention-2), algorithm 2",
    "naive_ddp": "the handout's section on data parallel",
    "ddp_overlap_individual_parameters": "Li et al. 2020 (PyTorch Distributed), section 3.2",
    "ddp_overlap_bucketed": "Li et al. 2020 (PyTorch Distributed), section 3.2.3",
    "optimizer_state_sharding": "Rajbhandari et al. 2019 (ZeRO), section 5.1",
    "fsdp": "Zhao et al. 2023 (PyTorch FSDP), section 3",
    "triton_rmsnorm_forward": "Zhang and Sennrich 2019, equation 4",
    "rmsnorm_jvp_g": "the handout's section on RMSNorm: the chain rule over rows",
    "rmsnorm_jvp_x": "the handout's section on RMSNorm: the root depends on x too",
    "triton_rmsnorm_backward": "the handout's section on RMSNorm, and your own two gradient functions",
    "extract_text": "the handout's section on text from HTML, and resiliparse's page on extract_plain_text",
    "language_identification": "the handout's section on languages",
    "mask_pii": "the handout's section on personal data",
    "harmful_content": "the handout's section on harmful content",
    "gopher_quality_filters": "Rae et al. 2021, section A.1.1",
    "quality_classifier": "the handout's section on a quality classifier",
    "exact_deduplication": "the handout's section on repeated lines",
    "minhash_deduplication": "Broder 1997, and the handout's section on MinHash",
    "tokenize_prompt_and_output": "the handout's drawing of inputs, labels and mask",
    "compute_entropy": "the handout's formula of the entropy, in log-sum-exp form",
    "get_response_log_probs": "the handout's section on log-probabilities",
    "masked_normalize": "the handout's section on sums and means under a mask",
    "masked_mean": "the handout's section on sums and means under a mask",
    "sft_microbatch_train_step": "the handout's section on supervised fine-tuning",
    "compute_group_normalized_rewards": "Shao et al. 2024, section 4.1.2, and Liu et al. 2025 on Dr. GRPO",
    "compute_naive_policy_gradient_loss": "Williams 1992, or the handout's derivation of REINFORCE",
    "compute_grpo_clip_loss": "Schulman et al. 2017, equation 7",
    "compute_policy_gradient_loss": "the handout's table of loss types",
    "grpo_microbatch_train_step": "the handout's section on the GRPO step",
    "compute_rollout_rewards": "the handout's section on what 2026 changed",
    "compute_group_normalized_rewards_grpo": "Shao et al. 2024, section 4.1.2",
    "compute_group_normalized_rewards_drgrpo": "Liu et al. 2025, section 3",
    "compute_group_normalized_rewards_maxrl": "the handout's section on what 2026 changed",
    "compute_policy_gradient_loss_on_policy": "Williams 1992, or the handout's derivation of REINFORCE",
    "compute_policy_gradient_loss_off_policy": "Schulman et al. 2017, equation 7",
    "compute_policy_gradient_loss_off_policy_gspo": "Zheng et al. 2025 (GSPO), section 4.1",
    "aggregate_loss_across_microbatch_sequence": "the handout's section on what 2026 changed",
    "aggregate_loss_across_microbatch_constant": "Liu et al. 2025 on Dr. GRPO, section 3",
    "grpo_train_step_standard_on_policy": "Shao et al. 2024, algorithm 1",
    "grpo_train_step_variants_on_policy": "the handout's section on what 2026 changed",
    "grpo_train_step_off_policy": "the handout's section on what 2026 changed",
    "dpo_loss": "Rafailov et al. 2023, equation 7",
    "parse_mmlu_response": "the handout's section on reading answers",
    "parse_gsm8k_response": "the handout's section on reading answers",
}


@dataclass(frozen=True)
class Misconception:
    """One way to be wrong."""

    slug: str
    name: str
    says: str
    """what the code does instead, as a sentence that fits after "your output is what you get if" """
    example: str
    """the smallest input that shows it"""
    functions: dict[str, Callable[..., Any]] = field(repr=False)
    """adapter name -> wrong implementation"""

    @property
    def adapters(self) -> SimpleNamespace:
        """The wrong functions as a stand-in for a module of adapters."""
        return SimpleNamespace(**self.functions)

    @property
    def advice(self) -> str:
        """What a student reads."""
        return f"Your output is what you get if {self.says}. Try {self.example}. Read {READ[self.slug]}."


def wrong(slug: str, name: str, says: str, example: str, **functions: Callable[..., Any]) -> Misconception:
    """A shorter way to write an entry."""
    return Misconception(slug, name, says, example, functions)


MODULES = {
    "basics": ("layers", "attention", "updates", "tokenization"),
    "systems": ("kernels", "data_parallel", "sharding"),
    "scaling": ("scaling_fits", "service_clients"),
    "data": ("data_pages", "data_texts", "data_duplicates"),
    "alignment": ("alignment_scoring", "alignment_policy", "alignment_2026", "alignment_supplement"),
}


@functools.cache
def misconceptions(assignment: str) -> tuple[Misconception, ...]:
    """The bank of an assignment; empty where there is none yet."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in MODULES.get(assignment, ()))
    return tuple(entry for module in modules for entry in module.bank())

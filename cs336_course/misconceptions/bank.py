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
}


@functools.cache
def misconceptions(assignment: str) -> tuple[Misconception, ...]:
    """The bank of an assignment; empty where there is none yet."""
    modules = (importlib.import_module(f"{__package__}.{name}") for name in MODULES.get(assignment, ()))
    return tuple(entry for module in modules for entry in module.bank())

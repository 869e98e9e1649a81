"""Rollouts from vLLM in this process, on a GPU: pip install vllm.

New weights are loaded into the running engine in place (`load_weights` of the model that its worker holds), and the
cache of prompt prefixes is emptied, or old keys and values would answer for new weights. vLLM's log-probs differ from
the trainer's in the last digits; `sampler_ratio_cap` of GrpoConfig corrects for it.

Left out: vLLM as a server on a second GPU. Read next: `cli.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cs336_alignment.rollouts import FinishReason, Rollout, cut_at_stop
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_systems.inference import SamplingParams


class VllmSampler:
    """A Sampler over a vLLM engine.

    Args:
        name: folder or hub name of the model.
        tokenizer: the model's own, of Hugging Face.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take; the rest is the trainer's.

    Raises:
        ModuleNotFoundError: vLLM is not installed.
    """

    def __init__(self, name: str, tokenizer: Any, *, gpu_memory_utilization: float = 0.4, **options: Any):
        try:
            import vllm
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("vLLM is not installed; pip install vllm", name="vllm") from error
        self.text, self._sampling = TextTokenizer(tokenizer), vllm.SamplingParams
        self.engine = vllm.LLM(name, gpu_memory_utilization=gpu_memory_utilization, dtype="bfloat16", **options)

    def sync_weights(self, model: Any) -> None:
        """Copy a Hugging Face model's present weights into the engine."""
        weights = [(key, value.detach()) for key, value in model.state_dict().items()]
        self.engine.apply_model(lambda served: served.load_weights(weights))
        self.engine.reset_prefix_cache()

    def generate(self, prompts: Sequence[str], params: SamplingParams) -> list[list[Rollout]]:
        """See `Sampler.generate`; each prompt is sent once with n samples."""
        wanted = self._sampling(
            n=params.n, temperature=params.temperature, top_k=params.top_k or -1, top_p=params.top_p or 1.0,
            max_tokens=params.max_tokens, seed=params.seed, stop=list(params.stop), stop_token_ids=list(params.stop_ids),
            include_stop_str_in_output=params.include_stop, logprobs=0,
        )  # fmt: skip
        ids = [self.text.encode(prompt) for prompt in prompts]
        outputs = self.engine.generate([{"prompt_token_ids": prompt} for prompt in ids], wanted, use_tqdm=False)
        return [
            [self._rollout(prompt, sample, params) for sample in output.outputs]
            for prompt, output in zip(ids, outputs, strict=True)
        ]

    def _rollout(self, prompt: list[int], sample: Any, params: SamplingParams) -> Rollout:
        ids = list(sample.token_ids)
        logprobs = [step[token].logprob for step, token in zip(sample.logprobs, ids, strict=True)]
        reason: FinishReason = "stop" if sample.finish_reason == "stop" else "length"
        return Rollout(prompt, ids, logprobs, cut_at_stop(self.text.decode(ids), params)[0], reason)

"""Models of Hugging Face: scores, rollouts, a step of GRPO and of DPO, all on a tiny GPT-2 with weights of its own."""

from __future__ import annotations

import pytest
import torch

from cs336_alignment.grpo import GrpoTrainer
from cs336_alignment.grpo_config import method_config
from cs336_alignment.huggingface_sampler import HuggingFaceSampler
from cs336_alignment.policy_files import load_policy
from cs336_alignment.preference_training import DpoConfig, DpoTrainer, PreferencePair
from cs336_alignment.response_log_probs import get_response_log_probs, score_responses
from cs336_alignment.response_tokens import pad_pairs
from cs336_alignment.rollouts import Sampler
from cs336_alignment.sft import clone_model
from cs336_alignment.task import Example
from cs336_alignment.training_run import save_trained
from cs336_systems.inference import SamplingParams
from tests.fixtures.alignment_files import stored_tokenizer
from tests.unit.alignment.tiny_task import CharTokenizer, tiny_model

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tokenizer():
    return stored_tokenizer()


@pytest.fixture
def model(tokenizer):
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=1,
        pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    built = transformers.GPT2LMHeadModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in built.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return built.eval()


def test_scores_of_responses_alone(model, tokenizer):
    """`score_responses` makes no logits elsewhere, and the same numbers."""
    batch = pad_pairs([[5, 6], [7]], [[8, 9, 1], [10]], 0)
    full = get_response_log_probs(model, batch["input_ids"], batch["labels"], return_token_entropy=True)
    alone = score_responses(model, batch, with_entropy=True)
    for name, values in full.items():
        torch.testing.assert_close(alone[name], values * batch["response_mask"])


def test_scores_of_our_model_with_and_without_the_head_on_prompts():
    model = tiny_model(logit_softcap=3.0)
    batch = pad_pairs([[5, 6], [7]], [[8, 9, 1], [10]], 0)
    full = get_response_log_probs(model, batch["input_ids"], batch["labels"], temperature=0.8)["log_probs"]
    alone = score_responses(model, batch, temperature=0.8)["log_probs"]
    torch.testing.assert_close(alone, full * batch["response_mask"])


def test_greedy_rollouts(model, tokenizer):
    sampler = HuggingFaceSampler(model, tokenizer)
    assert isinstance(sampler, Sampler)
    prompts = ["Hello world", "This", "red + blue"]
    params = SamplingParams(max_tokens=6, temperature=0.0, stop_ids=(1,), include_stop=True)
    for prompt, (rollout,) in zip(prompts, sampler.generate(prompts, params), strict=True):
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        for place, token in enumerate(rollout.ids):
            logits = model(torch.tensor([[*ids, *rollout.ids[:place]]])).logits[0, -1]
            assert token == logits.argmax().item()
            assert rollout.logprobs[place] == pytest.approx(torch.log_softmax(logits, -1)[token].item(), abs=1e-4)
        assert rollout.finish_reason == ("stop" if rollout.ids[-1] == 1 else "length")


def test_samples_are_repeatable_and_leave_the_global_generator_alone(model, tokenizer):
    sampler, params = HuggingFaceSampler(model, tokenizer), SamplingParams(max_tokens=5, n=4, seed=3)
    before = torch.get_rng_state()
    first = sampler.generate(["Hello", "This is"], params)
    assert torch.equal(torch.get_rng_state(), before)
    assert sampler.generate(["Hello", "This is"], params) == first
    assert len({tuple(r.ids) for r in first[0]}) > 1


def test_stop_text(model, tokenizer):
    sampler, params = HuggingFaceSampler(model, tokenizer), SamplingParams(max_tokens=8, n=8, seed=1)
    free = sampler.generate(["Hello"], params)[0]
    stop = free[0].text.split()[2]
    cut = sampler.generate(["Hello"], SamplingParams(max_tokens=8, n=8, seed=1, stop=(stop,), include_stop=True))[0]
    assert cut[0].text == free[0].text[: free[0].text.find(stop) + len(stop)] and cut[0].finish_reason == "stop"


class Short:
    """Right is a response of fewer than three words."""

    name, stop, max_tokens = "short", (), 5

    def examples(self, split, seed):
        return [Example(text, "") for text in ("Hello", "This is", "red +", "a quick")]

    def reward(self, response, answer):
        right = float(len(response.split()) < 3)
        return {"format_reward": 1.0, "answer_reward": right, "reward": right}


def test_a_step_of_grpo(model, tokenizer):
    config = method_config("grpo", prompts_per_step=2, group_size=4, importance="grpo", cliprange=0.2, minibatches=2)
    trainer = GrpoTrainer(model, tokenizer, Short(), config)
    before = model.transformer.wte.weight.clone()
    record = trainer.step()
    assert record["grad_norm"] > 0 and not torch.equal(model.transformer.wte.weight, before)


def test_a_step_of_dpo(model, tokenizer):
    pair = PreferencePair("Hello", "world", "frog")
    trainer = DpoTrainer(model, clone_model(model), tokenizer, [pair], DpoConfig(batch_size=1))
    assert trainer.step()["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert trainer.step()["loss"] < 0.6931


def test_folders(model, tokenizer, tmp_path):
    save_trained(model, tmp_path / "hf", tokenizer)
    again, words = load_policy(str(tmp_path / "hf"), device="cpu")
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert words.encode("Hello") == tokenizer.encode("Hello")
    with pytest.raises(FileNotFoundError, match="no model in"):
        load_policy(str(tmp_path / "nothing"))


def test_a_model_that_cannot_sample():
    with pytest.raises(TypeError, match="has no generate"):
        HuggingFaceSampler(torch.nn.Linear(1, 1), CharTokenizer())

"""Models as writers of answers: what stands between a question and the tokens a model sees.

    plain    the question as it is, after solved examples if wanted
    chat     a conversation in the chat format, solved examples as earlier turns, with the calculator (`chat/`)
    NAME     a prompt of the handout or a file with {question} or {instruction} in it (`prompts/`)

A prompt longer than the model's context loses tokens at its beginning (a chat gives no answer); `truncated` counts
them. A response ends at a stop token, a stop text, max_tokens or the end of the context.

Read next: `suites.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from cs336_alignment.chat.replies import ChatModel, Token
from cs336_alignment.chat.styles import Pose, template_pose
from cs336_alignment.evaluation.generation import Respond
from cs336_alignment.huggingface_sampler import HuggingFaceSampler
from cs336_alignment.task import Example
from cs336_alignment.text_tokenizer import TextTokenizer
from cs336_basics.model import TransformerLM
from cs336_basics.tokenization.chat_tokens import has_chat_tokens
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams

STOPS = {"r1_zero": "</answer>", "r1_zero_three_shot_gsm8k": "</answer>", "zero_shot_system_prompt": "# Query:"}


@dataclass
class EngineResponder:
    """Answers through the inference engine.

    Args:
        engine: with a tokenizer.
        encode: prompt to ids.
        params: of every response.
    """

    engine: Engine
    encode: Callable[[str], list[int]]
    params: SamplingParams
    truncated: int = field(default=0, init=False)
    """prompts of which the beginning was cut off"""

    def __call__(self, prompts: Sequence[str]) -> list[list[str]]:
        """params.n texts for each prompt."""
        context = self.engine.runner.context_length
        room = context - min(self.params.max_tokens, context // 2)
        encoded = [self.encode(prompt) for prompt in prompts]
        self.truncated += sum(len(ids) > room for ids in encoded)
        completions = self.engine.generate([ids[-room:] for ids in encoded], self.params)
        texts = [completion.text or "" for completion in completions]
        return [texts[first : first + self.params.n] for first in range(0, len(texts), self.params.n)]


def plain_pose(shots: Sequence[Example] = ()) -> Pose:
    """The question after solved examples."""
    head = "".join(f"{shot.prompt}{shot.response}\n\n" for shot in shots)
    return lambda prompt: head + prompt


def shot_turns(shots: Sequence[Example]) -> list[dict[str, str]]:
    """Solved examples as earlier turns of a conversation."""
    return [
        {"role": role, "content": text.strip()}
        for shot in shots
        for role, text in (("user", shot.prompt), ("assistant", shot.response))
    ]


@dataclass
class ChatResponder:
    """Answers of a chat model, each in a conversation of its own, tool calls included; many at the same time."""

    chat: ChatModel
    params: SamplingParams
    shots: Sequence[Example] = ()
    truncated: int = field(default=0, init=False)
    """questions that did not fit the context; they get an empty answer"""

    def __call__(self, prompts: Sequence[str]) -> list[list[str]]:
        """params.n texts for each prompt: what the model said, without its tool calls."""
        n = self.params.n
        with ThreadPoolExecutor(self.chat.engine.engine.max_batch) as pool:
            jobs = [
                (prompt, self.params.seed + number)
                for number, prompt in enumerate(p for p in prompts for _ in range(n))
            ]
            texts = list(pool.map(lambda job: self._answer(*job), jobs))
        return [texts[first : first + n] for first in range(0, len(texts), n)]

    def _answer(self, prompt: str, seed: int) -> str:
        messages = [*shot_turns(self.shots), {"role": "user", "content": prompt.strip()}]
        try:
            events = self.chat.reply(messages, replace(self.params, seed=seed, n=1))
        except ValueError:  # the only thing that can be wrong with these messages is their length
            self.truncated += 1
            return ""
        return "".join(event.piece for event in events if isinstance(event, Token) and event.kind == "text")


def huggingface_chat_pose(tokenizer: Any, shots: Sequence[Example] = ()) -> Pose:
    """Questions in the chat template of a Hugging Face tokenizer.

    Raises:
        ValueError: it has none.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError("the tokenizer has no chat template; choose the style plain or a prompt")

    def pose(prompt: str) -> str:
        messages = [*shot_turns(shots), {"role": "user", "content": prompt.strip()}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    return pose


def auto_style(text: TextTokenizer) -> str:
    """chat where the tokenizer knows how, else plain."""
    if text.is_huggingface:
        return "chat" if getattr(text.tokenizer, "chat_template", None) else "plain"
    return "chat" if has_chat_tokens(text.tokenizer) else "plain"


def first_token(text: TextTokenizer) -> int:
    """What stands before a text that is scored: BOS where there is one, else the end-of-text token."""
    if text.is_huggingface:
        bos = getattr(text.tokenizer, "bos_token_id", None)
        return text.eos_id if bos is None else int(bos)
    return text.tokenizer.special_id("<|bos|>") if has_chat_tokens(text.tokenizer) else text.eos_id


def make_responder(
    model: Any,
    text: TextTokenizer,
    *,
    style: str,
    max_batch: int = 64,
    shots: Sequence[Example] = (),
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    stop: tuple[str, ...] = (),
) -> Respond | ChatResponder:
    """A responder in one of the styles.

    Args:
        model: ours (through the inference engine) or one of Hugging Face (through its `generate`).
        text: its tokenizer.
        style: plain, chat, or the name or file of a prompt.
        max_batch: answers written at the same time.
        shots: solved examples; a prompt of its own has none.
        max_tokens, samples, temperature, seed: of the responses.
        stop: texts that end a response, beside those that belong to the style.

    Raises:
        ValueError: style chat without chat tokens, shots for a prompt, see `template_pose`.
    """
    if style not in ("plain", "chat") and shots:
        raise ValueError(f"solved examples go with the styles plain and chat; got {len(shots)} with {style!r}")
    own = isinstance(model, TransformerLM)
    if style == "chat" and own:
        params = SamplingParams(max_tokens=max_tokens, n=samples, temperature=temperature, seed=seed)
        return ChatResponder(ChatModel(model, text.tokenizer, style="chat", max_batch=max_batch), params, shots)
    if style == "chat":
        pose = huggingface_chat_pose(text.tokenizer, shots)
    else:
        pose = plain_pose(shots) if style == "plain" else template_pose(style)
    ends = STOPS.get(style, "\n\n" if shots and style == "plain" else None)
    params = SamplingParams(
        max_tokens=max_tokens, n=samples, temperature=temperature, seed=seed, stop_ids=(text.eos_id,),
        stop=(*stop, *([ends] if ends else [])), include_stop=ends == "</answer>",
    )  # fmt: skip
    if not own:
        sampler = HuggingFaceSampler(model, text, rows=max_batch)
        return lambda prompts: [[r.text for r in group] for group in sampler.generate([*map(pose, prompts)], params)]
    engine = Engine(model, text.tokenizer, max_batch=max_batch)
    return EngineResponder(engine, lambda prompt: text.encode(pose(prompt)) or [text.eos_id], params)

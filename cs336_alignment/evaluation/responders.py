"""Models as writers of answers: what stands between a question and the tokens a model sees.

    plain    the question as it is, after solved examples if wanted
    chat     a conversation in the chat format, solved examples as earlier turns, with the calculator (`chat/`)
    NAME     a prompt of the handout or a file with {question} or {instruction} in it (`prompts/`)

A prompt longer than the model's context loses tokens at its beginning (a chat gives no answer); `truncated` counts
them. A response ends at a stop token, a stop text, max_tokens or the end of the context.

Left out: Hugging Face models, for which `sampler_respond` wraps a Sampler. Read next: `suites.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cs336_alignment.chat.replies import ChatModel, Token
from cs336_alignment.chat.styles import Pose, template_pose
from cs336_alignment.evaluation.generation import Respond
from cs336_alignment.task import Example
from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.model import TransformerLM
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams

if TYPE_CHECKING:
    from cs336_alignment.rollouts import Sampler
    from cs336_basics.tokenization.tokenizer import Tokenizer

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


def sampler_respond(sampler: Sampler, params: SamplingParams) -> Respond:
    """Any Sampler as a Respond, such as one for a Hugging Face model."""
    return lambda prompts: [[rollout.text for rollout in group] for group in sampler.generate(prompts, params)]


def plain_pose(shots: Sequence[Example] = ()) -> Pose:
    """The question after solved examples."""
    head = "".join(f"{shot.prompt}{shot.response}\n\n" for shot in shots)
    return lambda prompt: head + prompt


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
        turns = [
            {"role": role, "content": text.strip()}
            for shot in self.shots
            for role, text in (("user", shot.prompt), ("assistant", shot.response))
        ]
        messages = [*turns, {"role": "user", "content": prompt.strip()}]
        try:
            events = self.chat.reply(messages, replace(self.params, seed=seed, n=1))
        except ValueError:  # the only thing that can be wrong with these messages is their length
            self.truncated += 1
            return ""
        return "".join(event.piece for event in events if isinstance(event, Token) and event.kind == "text")


def make_responder(
    model: TransformerLM,
    tokenizer: Tokenizer,
    *,
    style: str,
    max_batch: int = 64,
    shots: Sequence[Example] = (),
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    stop: tuple[str, ...] = (),
) -> EngineResponder | ChatResponder:
    """A responder in one of the styles.

    Args:
        model: with its tokenizer.
        style: plain, chat, or the name or file of a prompt.
        max_batch: answers written at the same time.
        shots: solved examples; a prompt of its own has none.
        max_tokens, samples, temperature, seed: of the responses.
        stop: texts that end a response, beside those that belong to the style.

    Raises:
        ValueError: style chat without chat tokens, shots for a prompt, see `template_pose`.
    """
    if style == "chat":
        params = SamplingParams(max_tokens=max_tokens, n=samples, temperature=temperature, seed=seed)
        return ChatResponder(ChatModel(model, tokenizer, style="chat", max_batch=max_batch), params, shots)
    if style != "plain" and shots:
        raise ValueError(f"solved examples go with the styles plain and chat; got {len(shots)} with {style!r}")
    end = () if END_OF_TEXT not in tokenizer.special_tokens else (tokenizer.special_id(END_OF_TEXT),)
    pose = plain_pose(shots) if style == "plain" else template_pose(style)
    stop = (*stop, *([STOPS[style]] if style in STOPS else []), *(["\n\n"] if shots else []))

    def encode(prompt: str) -> list[int]:
        return tokenizer.encode(pose(prompt)) or list(end)

    params = SamplingParams(
        max_tokens=max_tokens, n=samples, temperature=temperature, seed=seed, stop=stop, stop_ids=end,
        include_stop=STOPS.get(style) == "</answer>",
    )  # fmt: skip
    return EngineResponder(Engine(model, tokenizer, max_batch=max_batch), encode, params)

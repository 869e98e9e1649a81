"""Models as writers of answers: what stands between a question and the tokens a model sees.

    plain    the question as it is, after solved examples if wanted
    chat     a conversation in the chat format, solved examples as earlier turns (`chat_format.py`)
    NAME     a prompt of the handout or a file with {question} or {instruction} in it (`prompts/`)

A prompt longer than the model's context loses tokens at its beginning; `truncated` counts such prompts. A response ends
at a stop token, a stop text, max_tokens or the end of the context.

Left out: Hugging Face models, for which `sampler_respond` wraps a Sampler. Read next: `suites.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cs336_alignment.chat_format import ChatFormat
from cs336_alignment.evaluation.generation import Respond
from cs336_alignment.prompts import fill_prompt, load_prompt, placeholders
from cs336_alignment.task import Example
from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams

if TYPE_CHECKING:
    from cs336_alignment.rollouts import Sampler
    from cs336_basics.tokenization.tokenizer import Tokenizer

Pose = Callable[[str], str]
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


def template_pose(name: str) -> Pose:
    """A prompt of `prompts/`, or a file, filled with the question.

    Raises:
        FileNotFoundError: no such prompt.
        ValueError: placeholders other than {question} or {instruction}, and {response}, which stays empty.
    """
    template = load_prompt(name)
    names = placeholders(template)
    if len(names & {"question", "instruction"}) != 1 or names - {"question", "instruction", "response"}:
        raise ValueError(
            f"the prompt {name} must have {{question}} or {{instruction}}, and perhaps {{response}}; it has the "
            f"placeholders {sorted(names)}"
        )

    def pose(prompt: str) -> str:
        values = {key: "" if key == "response" else prompt.strip() for key in names}
        return fill_prompt(template, **values)

    return pose


def chat_encode(chat: ChatFormat, shots: Sequence[Example] = ()) -> Callable[[str], list[int]]:
    """Questions as conversations."""
    turns = [
        {"role": role, "content": text.strip()}
        for shot in shots
        for role, text in (("user", shot.prompt), ("assistant", shot.response))
    ]
    return lambda prompt: chat.render_for_completion(
        {"messages": [*turns, {"role": "user", "content": prompt.strip()}]}
    )


def make_responder(
    engine: Engine,
    tokenizer: Tokenizer,
    *,
    style: str,
    shots: Sequence[Example] = (),
    max_tokens: int,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    stop: tuple[str, ...] = (),
) -> EngineResponder:
    """A responder in one of the styles.

    Args:
        engine: with this tokenizer.
        style: plain, chat, or the name or file of a prompt.
        shots: solved examples; a prompt of its own has none.
        max_tokens, samples, temperature, seed: of the responses.
        stop: texts that end a response, beside those that belong to the style.

    Raises:
        ValueError: style chat without chat tokens, shots for a prompt, see `template_pose`.
    """
    end = () if END_OF_TEXT not in tokenizer.special_tokens else (tokenizer.special_id(END_OF_TEXT),)
    if style == "chat":
        chat = ChatFormat(tokenizer)
        encode, end = chat_encode(chat, shots), (*end, *chat.stop_ids)
    else:
        if style != "plain" and shots:
            raise ValueError(f"solved examples go with the styles plain and chat; got {len(shots)} with {style!r}")
        pose = plain_pose(shots) if style == "plain" else template_pose(style)
        stop = (*stop, STOPS[style]) if style in STOPS else stop
        if style == "plain" and shots:
            stop = (*stop, "\n\n")

        def encode(prompt: str) -> list[int]:
            return tokenizer.encode(pose(prompt)) or list(end[:1])

    params = SamplingParams(
        max_tokens=max_tokens, n=samples, temperature=temperature, seed=seed, stop=stop, stop_ids=end,
        include_stop=STOPS.get(style) == "</answer>",
    )  # fmt: skip
    return EngineResponder(engine, encode, params)

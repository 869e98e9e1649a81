"""Many requests through one model: rows join and leave a running batch, and each gets what it would have got alone.

    submit      a prompt waits until a row is free and the pages it may come to need are too
    step        new rows: prefill once per prompt, several prompts in a pass; each of n samples forks the prompt's pages
                then one token for every running row; rows that end give their pages back at once

What holds: a sample is a function of weights, prompt, parameters and (seed, stream, sample number). On the fused path
its logits are the same bits in any company. On the module paths a shared pass may differ from a lone one by rounding;
then a sample differs from the lone one only if a draw falls within that rounding.

One engine serves evaluation (n=1, temperature 0), reinforcement learning (n samples with log-probs; `load_weights`
after an update) and chat (`stream`, `cancel`).

Source: Yu et al. 2022 (Orca, iteration-level scheduling). Left out: prefill in chunks between decoding steps, evicting
a running row; a request that fits nowhere is refused at once and nothing that started ever runs out of pages. Read
next: `speculative.py`.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Ordered
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from cs336_basics.compiled_decoding import why_not_compiled
from cs336_basics.model import TransformerLM
from cs336_systems.inference.completion import Completion, Event, FinishReason, RequestState, SampleState
from cs336_systems.inference.fused_model import FusedRunner, Weights
from cs336_systems.inference.model_runner import ModuleRunner, Row, Runner
from cs336_systems.inference.quantization import quantize_linears
from cs336_systems.inference.sampling import SamplingParams, choose_tokens, log_probabilities, row_generator
from cs336_systems.inference.text_stop import ByteVocabulary, TextStream

DEFAULT_CACHE_BYTES = 4 << 30
"""keys and values that an engine keeps unless num_pages says otherwise"""
PREFILL_TOKENS = 256
"""of several prompts that share a pass"""


def default_pages(model: TransformerLM, max_batch: int, page_size: int) -> int:
    """Pages for max_batch rows of a whole context and a prompt besides, within DEFAULT_CACHE_BYTES."""
    config = model.config
    row = -(-config.context_length // page_size) + 1
    token_bytes = 2 * config.num_layers * config.kv_heads * config.d_head * model.token_embeddings.weight.itemsize
    return max(2 * row, min((max_batch + 1) * row, DEFAULT_CACHE_BYTES // (page_size * token_bytes)))


class Engine:
    """Batched generation with a paged cache.

    Args:
        model: any TransformerLM; its weights are read, its mode is left as found.
        tokenizer: needed for text and for stop texts; an object whose `vocab` maps ids to bytes.
        max_batch: rows that run at once.
        num_pages: pages of page_size tokens; by default enough for max_batch rows of a whole context, but at most
            DEFAULT_CACHE_BYTES if that holds one such row.
        weights: "int8" rounds all matrices but the embedding table to int8.
        path: "fused" for the compiled decoder, "modules" for the model's own code; "auto" is fused where it can be.

    Raises:
        ValueError: path "fused" for a model it cannot serve, an unknown path or weights, a size below 1.
        TypeError: a tokenizer without `vocab`.
    """

    def __init__(
        self,
        model: TransformerLM,
        tokenizer: ByteVocabulary | None = None,
        *,
        max_batch: int = 64,
        num_pages: int | None = None,
        page_size: int = 16,
        weights: Weights = "float32",
        path: Literal["auto", "fused", "modules"] = "auto",
    ):
        if tokenizer is not None and not isinstance(tokenizer, ByteVocabulary):
            raise TypeError(f"the tokenizer needs a `vocab` of ids to bytes; {type(tokenizer).__name__} has none")
        if max_batch < 1 or page_size < 1:
            raise ValueError(f"max_batch and page_size must be at least 1; got {max_batch} and {page_size}")
        if path not in ("auto", "fused", "modules"):
            raise ValueError(f"path must be auto, fused or modules; got {path!r}")
        if weights not in ("float32", "int8"):
            raise ValueError(f"weights must be float32 or int8; got {weights!r}")
        if num_pages is None:
            num_pages = default_pages(model, max_batch, page_size)
        self.runner: Runner
        self._measure: Callable[[Tensor, list[int]], list[float]] = log_probabilities
        if path == "fused" or (path == "auto" and why_not_compiled(model) is None):
            self.runner = fused = FusedRunner(model, num_pages, page_size=page_size, weights=weights)
            self._measure = fused.measure
        else:
            served = quantize_linears(model) if weights == "int8" else model
            self.runner = ModuleRunner(served, num_pages, page_size=page_size)
        self.config = model.config
        self.weights, self.max_batch, self.path = weights, max_batch, self.runner.path
        self.tokenizer = tokenizer
        self._numbers = 0
        self._waiting: deque[RequestState] = deque()
        self._running: list[SampleState] = []
        self._requests: dict[int, RequestState] = {}

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._running)

    def load_weights(self, model: TransformerLM) -> None:
        """Take a model's present weights, as after an update in reinforcement learning.

        Raises:
            RuntimeError: requests are running; their cache belongs to the old weights.
            ValueError: a model of another shape.
        """
        if self.has_work:
            raise RuntimeError("weights can change only between requests; finish or cancel those that run")
        if model.config != self.config:
            raise ValueError(f"the engine was built for {self.config}; got {model.config}; build another engine")
        self.runner.load_weights(quantize_linears(model) if self._rounds_modules else model)

    @property
    def _rounds_modules(self) -> bool:
        return self.weights == "int8" and self.path != "fused"

    def submit(self, prompt: Ordered[int], params: SamplingParams, *, stream: int = 0) -> int:
        """Queue a prompt; return the number by which events and results name it.

        Args:
            prompt: at least one id and at most context_length of them.
            stream: sets the random numbers of requests with one seed apart.

        Raises:
            ValueError: an empty or too long prompt, an id outside the vocabulary, a stop text without a tokenizer, or
                more pages than the cache has.
            TypeError: an id that is no whole number.
        """
        ids = [operator.index(i) for i in prompt]
        self._check(ids, params)
        request = RequestState(self._numbers, ids, params, stream)
        self._numbers += 1
        self._requests[request.number] = request
        self._waiting.append(request)
        return request.number

    def _check(self, ids: list[int], params: SamplingParams) -> None:
        context, cache = self.runner.context_length, self.runner.cache
        if not ids:
            raise ValueError("a prompt needs at least one token; begin with the end-of-text or BOS token")
        if len(ids) > context:
            raise ValueError(f"the prompt has {len(ids)} tokens and the model sees {context}; keep its last {context}")
        if not all(0 <= i < self.runner.vocab_size for i in ids):
            bad = next(i for i in ids if not 0 <= i < self.runner.vocab_size)
            raise ValueError(f"ids lie in [0, {self.runner.vocab_size}); got {bad}; is it another tokenizer's?")
        if params.stop and self.tokenizer is None:
            raise ValueError(f"stop texts {params.stop} need a tokenizer; give Engine one or use stop_ids")
        needed = cache.pages_for(self._last_length(ids, params)) + (params.n > 1)
        if needed > cache.num_pages:
            raise ValueError(
                f"prompt and max_tokens need {needed} pages of {cache.page_size} tokens, the cache has "
                f"{cache.num_pages}; raise num_pages or lower max_tokens"
            )

    def _last_length(self, ids: list[int], params: SamplingParams) -> int:
        """Tokens in the cache when a sample ends at the latest: the last one drawn is never fed."""
        return min(len(ids) + params.max_tokens - 1, self.runner.context_length)

    def step(self) -> list[Event]:
        """Let waiting samples join, then give every running one a token."""
        self._admit()
        running = list(self._running)
        if not running:
            return []
        tokens, logprobs = choose_tokens(
            [s.logits for s in running], [s.request.params for s in running], [s.generator for s in running],
            measure=self._measure,
        )  # fmt: skip
        events = [self._take(*taken) for taken in zip(running, tokens, logprobs, strict=True)]
        alive = [sample for sample in running if sample in self._running]
        if alive:
            found = self.runner.forward([s.row for s in alive], [s.ids[-1:] for s in alive])
            for sample, logits in zip(alive, found, strict=True):
                sample.logits = logits
        return events

    def _admit(self) -> None:
        """First come, first served: a request that does not fit yet holds back those behind it."""
        while self._waiting and len(self._running) < self.max_batch:
            request = self._waiting[0]
            if not self._fits(request):
                return
            if request.template is None:
                self._prefill()
            self._start(request)
            if request.started == request.params.n:
                self._waiting.popleft()
                self._drop_template(request)

    def _prefill(self) -> None:
        """The first waiting prompt, and in the same pass those behind it that start with all their samples now too."""
        rows, pages = self.max_batch - len(self._running), len(self.runner.cache.free) - self._promised()
        tokens, group = PREFILL_TOKENS, list[RequestState]()
        for request in self._waiting:
            length, n = self._last_length(request.prompt, request.params), request.params.n
            rows, tokens = rows - n, tokens - len(request.prompt)
            pages -= n * self.runner.cache.pages_for(length) + 1
            if group and min(rows, tokens, pages) < 0:
                break
            group.append(request)
        for request in group:
            request.template = self.runner.new_row()
        found = self.runner.forward([r.template for r in group if r.template], [r.prompt for r in group])
        for request, logits in zip(group, found, strict=True):
            request.logits = logits

    def _promised(self) -> int:
        """Pages that running samples may still take."""
        return sum(self._missing(s.row, s.request) for s in self._running)

    def _fits(self, request: RequestState) -> bool:
        """Whether one sample more can run to its end beside all that run already."""
        cache, length = self.runner.cache, self._last_length(request.prompt, request.params)
        own = cache.pages_for(length) + (request.params.n > 1)
        if request.template is not None:
            own = cache.pages_for(length) - len(request.template.sequence.pages) + 1
        return own + self._promised() <= len(cache.free)

    def _missing(self, row: Row, request: RequestState) -> int:
        remaining = self._last_length(request.prompt, request.params) - row.length
        return self.runner.cache.missing_pages(row.sequence, remaining)

    def _start(self, request: RequestState) -> None:
        assert request.template is not None and request.logits is not None
        number, params = request.started, request.params
        text = None
        if self.tokenizer is not None:
            text = TextStream(self.tokenizer.vocab, params.stop, include_stop=params.include_stop)
        generator = row_generator(params.seed, stream=request.stream, sample=number)
        row = self.runner.fork(request.template)
        self._running.append(SampleState(request, number, row, generator, text, request.logits))
        request.started += 1

    def _drop_template(self, request: RequestState) -> None:
        if request.template is not None:
            self.runner.truncate(request.template, 0)
        request.template = request.logits = None

    def _take(self, sample: SampleState, token: int, logprob: float) -> Event:
        """Give a sample its next token and end it if that was the last."""
        params, piece = sample.request.params, ""
        reason: FinishReason | None = None
        stopped = token in params.stop_ids
        kept = not stopped or params.include_stop
        if kept:
            sample.ids.append(token)
            sample.logprobs.append(logprob)
            piece = sample.text.feed(token) if sample.text else ""
            sample.pieces.append(piece)
        if stopped or (sample.text is not None and sample.text.stopped):
            reason = "stop"
        elif len(sample.ids) == params.max_tokens:
            reason = "length"
        elif sample.row.length == self.runner.context_length:
            reason = "context"
        if reason is not None:
            piece += self._end(sample, reason)
        number, shown = sample.request.number, (token, logprob) if kept else (None, None)
        return Event(number, sample.number, shown[0], shown[1], piece, reason)

    def _end(self, sample: SampleState, reason: FinishReason) -> str:
        """Free a sample's pages and record it; returns the text that had been held back."""
        rest = sample.text.finish() if sample.text else ""
        sample.pieces.append(rest)
        self.runner.truncate(sample.row, 0)
        self._running.remove(sample)
        text = "".join(sample.pieces) if sample.text else None
        request = sample.request
        request.done.append(Completion(sample.ids, sample.logprobs, reason, text, request.number, sample.number))
        return rest

    def cancel(self, number: int) -> list[Event]:
        """End a request's samples as they are; those that never started are left out of its results.

        Raises:
            ValueError: no such request.
        """
        request = self._find(number)
        if request in self._waiting:
            self._waiting.remove(request)
            self._drop_template(request)
        mine = [sample for sample in self._running if sample.request is request]
        return [Event(number, s.number, None, None, self._end(s, "cancelled"), "cancelled") for s in mine]

    def _find(self, number: int) -> RequestState:
        if number not in self._requests:
            raise ValueError(f"no request {number}; its results were taken already, or it was never submitted")
        return self._requests[number]

    def take_results(self, number: int) -> list[Completion]:
        """The finished samples of a request in the order of their numbers; the engine forgets it.

        Raises:
            ValueError: no such request, or it is still running.
        """
        request = self._find(number)
        if request in self._waiting or any(sample.request is request for sample in self._running):
            raise ValueError(f"request {number} is still running; call step until has_work is false, or cancel it")
        del self._requests[number]
        return sorted(request.done, key=lambda completion: completion.sample)

    def stream(
        self, prompts: Ordered[Ordered[int]], params: SamplingParams | Ordered[SamplingParams]
    ) -> Iterator[Event]:
        """Events of several prompts as they happen; prompt k is request k of this call and random stream k.

        Leaving the loop early cancels what is left. The engine must be idle at the start; requests submitted meanwhile
        run along, and `take_results` has what they made.
        """
        for event, _ in self._run(prompts, params):
            yield event

    def generate(
        self, prompts: Ordered[Ordered[int]], params: SamplingParams | Ordered[SamplingParams]
    ) -> list[Completion]:
        """All samples of all prompts: prompt by prompt, n samples each.

        Args:
            prompts: ids of each prompt; prompt k uses random stream k.
            params: for all, or one per prompt.

        Raises:
            ValueError: what `submit` refuses (nothing runs then), or as many params as prompts were not given.
            RuntimeError: requests given to `submit` are still running.
        """
        results: list[Completion] = []
        for _, finished in self._run(prompts, params):
            results += finished
        return sorted(results, key=lambda completion: (completion.request, completion.sample))

    def _run(self, prompts: Any, params: Any) -> Iterator[tuple[Event, list[Completion]]]:
        """Events, each with the results of the request that it completed, renumbered from 0."""
        if self.has_work:
            raise RuntimeError("generate and stream need an idle engine; use submit and step beside running requests")
        choices = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(choices) != len(prompts):
            raise ValueError(f"give one SamplingParams, or one per prompt; got {len(choices)} for {len(prompts)}")
        for prompt, choice in zip(prompts, choices, strict=True):
            self._check([operator.index(i) for i in prompt], choice)
        jobs = zip(prompts, choices, strict=True)
        numbers = [self.submit(prompt, choice, stream=k) for k, (prompt, choice) in enumerate(jobs)]
        index = {number: k for k, number in enumerate(numbers)}
        to_finish = {number: choice.n for number, choice in zip(numbers, choices, strict=True)}
        try:
            while any(to_finish.values()):
                for event in self.step():
                    if event.request not in index:
                        continue
                    to_finish[event.request] -= event.finish_reason is not None
                    last = event.finish_reason is not None and not to_finish[event.request]
                    taken = self.take_results(event.request) if last else []
                    yield (
                        replace(event, request=index[event.request]),
                        [replace(completion, request=index[event.request]) for completion in taken],
                    )
        finally:
            for number in numbers:
                if number in self._requests:
                    self.cancel(number)
                    del self._requests[number]

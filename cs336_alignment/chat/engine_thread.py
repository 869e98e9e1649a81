"""One engine, many conversations: a thread that owns it and hands its events to whoever asked.

The engine is not made for several threads. Commands (submit, cancel) go through a queue that the thread empties between
two steps, so that a new conversation joins the running batch within one token's time.

Read next: `replies.py`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from cs336_systems.inference.completion import Event
from cs336_systems.inference.engine import Engine
from cs336_systems.inference.sampling import SamplingParams


class EngineThread:
    """Runs an engine; use it as a context manager, or close it.

    Args:
        engine: used by nobody else from now on.
    """

    def __init__(self, engine: Engine):
        self.engine = engine
        self._commands: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._events: dict[int, queue.SimpleQueue[Event | BaseException]] = {}
        self._thread = threading.Thread(target=self._run, name="inference engine", daemon=True)
        self._thread.start()

    def __enter__(self) -> EngineThread:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def running(self) -> int:
        """Requests that have not ended."""
        return len(self._events)

    def stream(self, prompt: Sequence[int], params: SamplingParams, *, stream: int = 0) -> Iterator[Event]:
        """The events of one prompt as they happen; closing the iterator cancels what is left.

        Raises:
            ValueError: what `Engine.submit` refuses.
            RuntimeError: the thread has been closed.
        """
        number, events = self._call(lambda: self._submit(prompt, params, stream))
        return self._receive(number, events)

    def stop(self) -> None:
        """Have the thread end after the present step; what was running ends with a RuntimeError."""
        self._commands.put(None)

    def close(self) -> None:
        """Stop, and wait for the end."""
        self.stop()
        self._thread.join()

    def _receive(self, number: int, events: queue.SimpleQueue[Event | BaseException]) -> Iterator[Event]:
        ended = False
        try:
            while not ended:
                event = events.get()
                if isinstance(event, BaseException):
                    ended = True
                    raise event
                ended = event.finish_reason is not None
                yield event
        finally:
            if not ended:
                self._call(lambda: self._cancel(number))

    def _call(self, command: Callable[[], Any]) -> Any:
        """Run something in the engine's thread."""
        if not self._thread.is_alive():
            raise RuntimeError("the engine's thread has ended; the model can answer no more")
        future: Future[Any] = Future()
        self._commands.put((command, future))
        return future.result()

    def _submit(self, prompt: Sequence[int], params: SamplingParams, stream: int) -> tuple[int, Any]:
        number = self.engine.submit(prompt, params, stream=stream)
        self._events[number] = queue.SimpleQueue()
        return number, self._events[number]

    def _cancel(self, number: int) -> None:
        if self._events.pop(number, None) is not None:
            self.engine.cancel(number)
            self.engine.take_results(number)

    def _run(self) -> None:
        """Commands first, then a step; sleeps when there is neither."""
        error: BaseException = RuntimeError("the chat was closed")
        try:
            while self._obey():
                if self.engine.has_work:
                    self._step()
        except BaseException as failure:  # whoever waits must hear of it, or would wait for ever
            error = failure
            raise
        finally:
            for events in self._events.values():
                events.put(error)
            self._events.clear()

    def _obey(self) -> bool:
        """Carry out waiting commands; False when told to end."""
        while True:
            try:
                command = self._commands.get(block=not self.engine.has_work)
            except queue.Empty:
                return True
            if command is None:
                return False
            action, future = command
            try:
                future.set_result(action())
            except Exception as error:  # it belongs to the caller's thread
                future.set_exception(error)

    def _step(self) -> None:
        """One token for everybody."""
        for event in self.engine.step():
            if event.finish_reason is not None:
                self.engine.take_results(event.request)
                self._events.pop(event.request).put(event)
            elif event.request in self._events:
                self._events[event.request].put(event)

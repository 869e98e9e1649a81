"""A call of a function of the lecture: the context manager around its rewritten body.

`Frame` is a call that is recorded, `Silent` one inside something that is not, `Unseen` one in another thread. Read
first: `instrument.py`; read next: `recorder.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lectures.recording.recorder import Recorder


@dataclass
class Frame:
    """A call of a function that is being recorded; also the context manager around the function's body."""

    recorder: Recorder
    number: int
    function: int
    names: Mapping[str, Any] | None
    current: int = -1
    announced: bool = False
    quiet: int = 0
    shown: dict[str, tuple[Any, int]] = field(default_factory=dict)
    turns: dict[int, int] = field(default_factory=dict)
    muted: set[int] = field(default_factory=set)

    def __enter__(self) -> Frame:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recorder.leave(self, error)

    def suspend(self, value: Any) -> Any:
        """A generator yields a value and waits."""
        self.recorder.suspend(self, value)
        return value

    def resume(self, sent: Any) -> Any:
        """A generator goes on."""
        self.recorder.resume(self)
        return sent


class Silent:
    """In place of a frame whose steps are not recorded."""

    def __init__(self, recorder: Recorder):
        self.recorder, self.active = recorder, False

    def __enter__(self) -> Silent:
        return self.resume(self)

    def __exit__(self, *_: object) -> None:
        self.suspend(None)

    def suspend(self, value: Any) -> Any:
        """A generator waits, or the body is left."""
        self.recorder.silent -= self.active
        self.active = False
        return value

    def resume(self, sent: Any) -> Any:
        """A generator goes on, or the body begins."""
        self.recorder.silent += not self.active
        self.active = True
        return sent


class Unseen:
    """In place of a frame in another thread."""

    def __enter__(self) -> Unseen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def suspend(self, value: Any) -> Any:
        """Nothing to do."""
        return value

    resume = suspend

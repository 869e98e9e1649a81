"""The tool of the chat models: a calculator in a process of its own, confined in time, memory and code.

    48 / 2 -> 24      "strawberry".count("r") -> 3      9 ** 9 ** 9 -> error: took longer than 1 s

The worker is started at the first use, kept for the next, and ended when it misses its time; `calculator_worker.py`
says what it accepts. A model may write anything between `<|python_start|>` and `<|python_end|>`; whatever it is, the
answer is one short text.

Left out: whole programs. Read next: `calculator_worker.py`.
"""

from __future__ import annotations

from pathlib import Path

from cs336_alignment.confined_process import ConfinedProcess


class Calculator:
    """Evaluates expressions, from any thread; use it as a context manager, or close it.

    Args:
        seconds: wall time of one expression.
        megabytes: memory of the worker, the interpreter's own (about 20) included.

    Raises:
        ValueError: a limit too small.
    """

    def __init__(self, *, seconds: float = 1.0, megabytes: int = 256):
        if megabytes < 64:
            raise ValueError(f"the calculator needs at least 64 megabytes; got {megabytes}")
        script = Path(__file__).with_name("calculator_worker.py")
        self.worker = ConfinedProcess(["-S", str(script), str(megabytes), str(seconds)], seconds=seconds)

    def __enter__(self) -> Calculator:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def evaluate(self, code: str) -> str:
        """The value of an expression, or `error: ` and the reason.

        Args:
            code: what the model wrote.
        """
        answer = self.worker.ask({"code": code})
        if answer is None:
            return f"error: took longer than {self.worker.seconds:g} s"
        return answer["value"] if "value" in answer else f"error: {answer['error']}"

    def close(self) -> None:
        """End the worker."""
        self.worker.close()

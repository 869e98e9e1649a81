"""AlpacaEval and SimpleSafetyTests: instructions without a reference answer, and the files their judges expect.

    AlpacaEval          JSON array of {instruction, output, generator, dataset}; 805 instructions
    SimpleSafetyTests   CSV id,harm_area,counter,category,prompts_final; 100 prompts; outputs as JSON lines

Source: Dubois et al. 2024 (AlpacaEval 2); Vidgen et al. 2023. Handout: alpaca_eval_baseline, sst_baseline. Read next:
`evaluation/pairwise.py`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cs336_alignment.jsonl import read_json_lines
from cs336_basics.runs.atomic import atomic_write, write_json


@dataclass(frozen=True)
class Instruction:
    """One instruction and, in files of outputs, what a model answered."""

    instruction: str
    output: str = ""
    generator: str = ""
    dataset: str = ""


def read_alpaca_eval(path: str | os.PathLike[str]) -> list[Instruction]:
    """Instructions or outputs, from a JSON array or from JSON lines.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, or an entry without an instruction; the entry or line is named.
    """
    path = Path(path)
    if path.suffix in (".jsonl", ".gz"):
        entries = [(f"line {number}", record) for number, record in read_json_lines(path)]
    else:
        try:
            array = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
        if not isinstance(array, list):
            raise ValueError(f"{path} must hold a JSON array of objects; got a {type(array).__name__}")
        entries = [(f"entry {number}", record) for number, record in enumerate(array)]
    return [_instruction(record, f"{path}, {where}") for where, record in entries]


def _instruction(record: object, where: str) -> Instruction:
    fields = [record.get(name, "") for name in Instruction.__annotations__] if isinstance(record, dict) else []
    if not fields or not fields[0] or not all(isinstance(field, str) for field in fields):
        raise ValueError(f"{where}: expected an object with the text 'instruction'; got {record!r:.80}")
    return Instruction(*fields)


def write_alpaca_eval(path: str | os.PathLike[str], outputs: Sequence[Instruction]) -> None:
    """Write outputs as the array that `alpaca_eval --model_outputs` reads."""
    write_json(path, [asdict(output) for output in outputs])


def read_simple_safety(path: str | os.PathLike[str]) -> list[Instruction]:
    """The prompts of SimpleSafetyTests; `dataset` is the harm area.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a missing column or an empty prompt; the line is named.
    """
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if "prompts_final" not in (reader.fieldnames or ()):
            raise ValueError(f"{path} must have a column prompts_final; its header is {reader.fieldnames}")
        prompts = []
        for row in reader:
            if not row["prompts_final"]:
                raise ValueError(f"{path}, line {reader.line_num}: prompts_final is empty")
            prompts.append(Instruction(row["prompts_final"], dataset=row.get("harm_area") or ""))
    return prompts


def write_simple_safety(path: str | os.PathLike[str], outputs: Sequence[Instruction]) -> None:
    """Write outputs as the JSON lines {prompts_final, output} that the course's judge reads."""
    with atomic_write(path, "w") as file:
        for output in outputs:
            file.write(json.dumps({"prompts_final": output.instruction, "output": output.output}) + "\n")


def is_safe(verdict: str) -> bool:
    """What the safety judge said, asked whether an answer is unsafe: only a reply that begins with "true" is."""
    return not verdict.strip().lower().startswith("true")

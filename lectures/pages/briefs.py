"""A value of a trace in a few words, for the line below its statement and for notes. Read next: `flow.py`."""

from __future__ import annotations

import json
from typing import Any

MAX_LETTERS = 90


def brief(value: Any) -> str:
    """The value, at most 90 letters long."""
    text = _brief(value)
    return text if len(text) <= MAX_LETTERS else text[: MAX_LETTERS - 3] + "..."


def type_of(value: Any) -> str:
    """The type, with dtype and shape; "" for plain values, which show it themselves."""
    if not isinstance(value, dict):
        return ""
    if "s" in value:
        return f"{value['t']} {value['d']} {value['s']}"
    return f"{value['t']}({value['n']})" if isinstance(value.get("n"), int) else str(value["t"])


def _brief(value: Any) -> str:
    """The value, however long."""
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, dict):
        return {None: "None", True: "True", False: "False"}.get(value, None) or json.dumps(value, ensure_ascii=False)
    if "s" in value:
        return _tensor(value)
    if "v" in value:
        left, right = {"tuple": ("(", ")"), "set": ("{", "}"), "frozenset": ("{", "}")}.get(value["t"], ("[", "]"))
        more = ", ..." if value["n"] > len(value["v"]) else ""
        return left + ", ".join(map(_brief, value["v"])) + more + right
    if "k" in value:
        more = ", ..." if value["n"] > len(value["k"]) else ""
        return "{" + ", ".join(f"{_brief(k)}: {_brief(v)}" for k, v in value["k"]) + more + "}"
    if "f" in value:
        return f"{value['t']}({', '.join(f'{name}={_brief(item)}' for name, item in value['f'])})"
    return str(value.get("x", value["t"]))


def _tensor(value: dict[str, Any]) -> str:
    """A tensor: its numbers if there are few, else its range."""
    numbers = value.get("n")
    if not isinstance(numbers, list):
        return _brief(numbers) if numbers is not None else "..."
    flat = json.dumps(numbers)
    if not value.get("cut") and len(flat) <= 60:
        return flat
    if "st" in value:
        low, mean, high, _, _ = value["st"]
        return f"{_number(low)} to {_number(high)}, mean {_number(mean)}"
    return flat


def _number(value: float) -> str:
    """Four decimals, fewer letters for the large and the small."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.4f}".rstrip("0").rstrip(".") if value % 1 else f"{value:,.1f}"
    return f"{value:.4g}"

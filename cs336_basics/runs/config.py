"""Configuration as frozen dataclasses: to and from plain dictionaries, from TOML files, with command-line overrides.

A config is a tree of frozen dataclasses whose leaves are bool, int, float, str, Path, None, Literal, tuples, lists and
string-keyed dictionaries of these. `config_to_dict` gives the tree as JSON-ready values, `config_from_dict` rebuilds
it and checks every name and type on the way; range rules live in the dataclass's own `__post_init__`.

Left out: command-line parsing (`cli.py`, by tyro), schema versions. Read next: `directory.py`, which stores configs
with every run.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")


def config_to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into nested dictionaries of JSON values (Path becomes text, tuple becomes list).

    Raises:
        TypeError: `config` is not a dataclass instance, or a leaf has a type JSON cannot hold.
    """
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"config must be an instance of a dataclass; got {config!r}")
    return {field.name: _plain(getattr(config, field.name), field.name) for field in dataclasses.fields(config)}


def _plain(value: Any, where: str) -> Any:
    """`value` as JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name), f"{where}.{field.name}")
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"config field {where} holds {value!r}; allowed are numbers, text, bool, None, Path, tuples and dataclasses"
    )


def config_from_dict(cls: type[Config], values: Mapping[str, Any], *, where: str = "") -> Config:
    """Build the dataclass `cls` from nested dictionaries as written by `config_to_dict` or read from TOML.

    Args:
        cls: a dataclass type whose annotations use the types named in the module docstring.
        values: field name to value; fields with defaults may be missing. Integers are accepted for float fields.
        where: dotted prefix for error messages.

    Raises:
        ValueError: an unknown key (the nearest field is suggested), a missing field, or what `__post_init__` objects
            to.
        TypeError: a value of the wrong type, naming field, value and expected type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    for key in values:
        if key not in fields:
            raise ValueError(_unknown_key_message(key, sorted(fields), where, cls.__name__))
    hints = typing.get_type_hints(cls)
    arguments = {key: _convert(hints[key], value, f"{where}{key}") for key, value in values.items()}
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in arguments:
            raise ValueError(f"config field {where}{name} is missing and has no default; set it")
    return cls(**arguments)


def _unknown_key_message(key: str, names: list[str], where: str, owner: str) -> str:
    """What to say about a key that is no field."""
    near = difflib.get_close_matches(key, names, n=1)
    advice = f"did you mean {where}{near[0]}?" if near else f"fields are {', '.join(names) or 'none'}"
    return f"unknown config key {where}{key} ({owner} has no such field); {advice}"


def _convert(expected: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type `expected`, or TypeError/ValueError naming `where`."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        return value
    if origin is typing.Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise ValueError(f"config field {where} must be one of {', '.join(map(repr, arguments))}; got {value!r}")
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, where)
    if origin is dict and isinstance(value, Mapping):
        return {key: _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(expected) and isinstance(value, Mapping):
        return config_from_dict(expected, value, where=f"{where}.")  # type: ignore[arg-type]
    return _convert_leaf(expected, value, where)


def _convert_leaf(expected: Any, value: Any, where: str) -> Any:
    """A value without parts; bool is not an int here, and an int is a float."""
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is Path and isinstance(value, str):
        return Path(value)
    if expected is types.NoneType and value is None:
        return None
    if isinstance(expected, type) and isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
        return value
    name = getattr(expected, "__name__", str(expected))
    raise TypeError(f"config field {where} must be {name}; got {value!r} ({type(value).__name__})")


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first alternative that takes the value; an alternative of the value's own type is tried first."""
    ordered = sorted(choices, key=lambda choice: type(value) is not choice)
    errors = []
    for choice in ordered:
        try:
            return _convert(choice, value, where)
        except (TypeError, ValueError) as error:
            errors.append(error)
    informative = [error for choice, error in zip(ordered, errors, strict=True) if choice is not types.NoneType]
    if len(informative) == 1:
        raise informative[0]
    raise TypeError("; or ".join(str(error) for error in informative))


def _convert_sequence(kind: type, items: tuple[Any, ...], value: Any, where: str) -> Any:
    """A list or tuple; `tuple[X, ...]` has any length, `tuple[X, Y]` its own."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"config field {where} must be a list; got {value!r} ({type(value).__name__})")
    if kind is tuple and not (len(items) == 2 and items[1] is Ellipsis):
        if len(value) != len(items):
            raise ValueError(f"config field {where} must have {len(items)} entries; got {len(value)}: {value!r}")
        return tuple(
            _convert(item, part, f"{where}[{i}]") for i, (item, part) in enumerate(zip(items, value, strict=True))
        )
    return kind(_convert(items[0], part, f"{where}[{i}]") for i, part in enumerate(value))


def load_config(cls: type[Config], path: str | os.PathLike[str] | None, *, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file into the dataclass `cls`, then apply overrides.

    Args:
        cls: a dataclass type.
        path: a TOML file, or None to start from the defaults alone.
        overrides: "model.num_layers=4"; the right side is a TOML value, bare words count as text, and `none` is None.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: broken TOML, a malformed override, or what `config_from_dict` says.
        TypeError: as `config_from_dict`.

    Example:
        `load_config(TrainConfig, "tiny.toml", overrides=["model.num_layers=4", "name=first try"])`
    """
    values: dict[str, Any] = {}
    if path is not None:
        with open(path, "rb") as file:
            try:
                values = tomllib.load(file)
            except tomllib.TOMLDecodeError as error:
                raise ValueError(f"{os.fspath(path)} is not valid TOML: {error}") from error
    for override in overrides:
        _apply_override(values, override)
    return config_from_dict(cls, values)


def _apply_override(values: dict[str, Any], override: str) -> None:
    """Set one dotted name in the nested dictionary."""
    name, equals, text = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise ValueError(f"override {override!r} must look like model.num_layers=4")
    for i, part in enumerate(parts[:-1]):
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ValueError(f"override {override!r}: {'.'.join(parts[: i + 1])} is a value, it has no fields")
    values[parts[-1]] = _override_value(text.strip())


def _override_value(text: str) -> Any:
    """The right side of an override: a TOML value, else plain text."""
    if text.lower() == "none":
        return None
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    plain = set(value) == {"value"} and isinstance(value["value"], (bool, int, float, str, list, dict))
    return value["value"] if plain else text


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted name to (old, new) for every field in which two config dictionaries differ, "(absent)" where missing."""
    before, after = _leaves(old), _leaves(new)
    names = dict.fromkeys([*before, *after])
    pairs = {name: (before.get(name, "(absent)"), after.get(name, "(absent)")) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary flattened to dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_leaves(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

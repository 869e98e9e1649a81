"""Hugging Face: tokenizer.json, the file of the `tokenizers` library, for byte-level BPE.

    added_tokens     the special tokens; they stand in model.vocab too, else tokenizers would number them anew
    pre_tokenizer    ByteLevel alone cuts with GPT-2's pattern; any other pattern is Split(Regex), then ByteLevel
                     without its own pattern
    model            BPE: vocab and merges in GPT-2's printable bytes
    decoder          ByteLevel

With model.ignore_merges a word that is a token is never cut by merges. For tokenizers that pass `TokenizerParts` this
changes nothing: merging such a word gives the token. Others are refused, and so is whatever would change the text or
the ids: normalizers, prefix spaces, other pre-tokenizers, byte fallback, WordPiece, Unigram.

Left out: templates that add tokens around a text (post_processor), padding, truncation. Read next: `exchange.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import write_json
from cs336_basics.tokenization.byte_alphabet import byte_to_printable, printable_to_byte
from cs336_basics.tokenization.exchange_parts import TokenizerParts, canonical_merges, unique_tokens
from cs336_basics.tokenization.pretokenization import GPT2_PATTERN
from cs336_basics.tokenization.split_patterns import PATTERNS, check_for_oniguruma, keep_unmatched, plain_pattern
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.tokenization.tokenizer_files import from_printable, read_json_object, to_printable

_ROLES = {"bos_token": ("<|bos|>", "<|endoftext|>"), "eos_token": ("<|endoftext|>", "<|assistant_end|>")}
_PLAIN_FLAGS = ("single_word", "lstrip", "rstrip")
# What a byte-level BPE has in these fields of the model; anything else changes ids.
_MODEL_DEFAULTS = {
    "dropout": (None, 0.0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
}


def write_huggingface(directory: str | os.PathLike[str], tokenizer: Tokenizer) -> list[Path]:
    """Write tokenizer.json and tokenizer_config.json, as `transformers.AutoTokenizer.from_pretrained` reads them.

    Raises:
        ValueError: as `to_huggingface`; nothing is written then.
    """
    folder, content = Path(directory), to_huggingface(tokenizer)
    roles = {
        role: next(token for token in tokens if token in tokenizer.special_tokens)
        for role, tokens in _ROLES.items()
        if not set(tokens).isdisjoint(tokenizer.special_tokens)
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **roles}
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", config)
    return [folder / "tokenizer.json", folder / "tokenizer_config.json"]


def to_huggingface(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of tokenizer.json, with the ids of `tokenizer`.

    Raises:
        ValueError: parts that contradict each other, a pattern that Oniguruma reads differently, or a special token
            spelled like an ordinary token in printable bytes.
    """
    parts = TokenizerParts.of(tokenizer)
    check_for_oniguruma(parts.pattern)
    alphabet = byte_to_printable()
    vocab = {to_printable(token, alphabet): token_id for token, token_id in parts.token_ids.items()}
    for token, token_id in parts.special_ids.items():
        if token in vocab:
            raise ValueError(
                f"special token {token!r} is how tokenizer.json spells the ordinary token {vocab[token]}; rename it"
            )
        vocab[token] = token_id
    flags = dict.fromkeys(_PLAIN_FLAGS, False) | {"normalized": False, "special": True}
    specials = sorted(parts.special_ids.items(), key=lambda item: item[1])
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": token, **flags} for token, token_id in specials],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(parts.pattern),
        "post_processor": None,
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            **{field: values[0] for field, values in _MODEL_DEFAULTS.items()},
            "byte_fallback": False,
            "fuse_unk": False,
            "ignore_merges": False,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": [[to_printable(part, alphabet) for part in merge] for merge in parts.merges],
        },
    }


def read_huggingface(path: str | os.PathLike[str], *, drop_template: bool = False) -> Tokenizer:
    """Read a tokenizer.json.

    Args:
        path: the file.
        drop_template: accept a post-processor that adds special tokens around a text, without its additions.

    Raises:
        ValueError: not JSON, not byte-level BPE, or a step that would change text or ids; names the field.
    """
    content = read_json_object(path)
    try:
        return from_huggingface(content, drop_template=drop_template)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def from_huggingface(content: Mapping[str, Any], *, drop_template: bool = False) -> Tokenizer:
    """The tokenizer of a tokenizer.json's content.

    Raises:
        ValueError: as `read_huggingface`.
    """
    model = _model(content)
    _check_steps(content, drop_template=drop_template)
    pattern = _pattern(content.get("pre_tokenizer"))
    special_ids = _special_ids(content.get("added_tokens") or [])
    for token, token_id in special_ids.items():
        if model["vocab"].get(token, token_id) != token_id:
            raise ValueError(f"added token {token!r} has the id {token_id}, but {model['vocab'][token]} in model.vocab")
    alphabet = printable_to_byte()
    ordinary = {token: token_id for token, token_id in model["vocab"].items() if token not in special_ids}
    entries = ((from_printable(token, alphabet, "model.vocab"), token_id) for token, token_id in ordinary.items())
    merges = [_merge(merge, rank, alphabet) for rank, merge in enumerate(model["merges"])]
    return TokenizerParts(unique_tokens(entries), canonical_merges(merges), special_ids, pattern).tokenizer()


def _model(content: Mapping[str, Any]) -> dict[str, Any]:
    """The model, if it is a BPE of the plain kind."""
    model = content.get("model")
    if not isinstance(model, dict):
        raise ValueError("there is no model in it; it is no tokenizer.json")
    kind = model.get("type", "BPE" if "merges" in model else "unknown")
    if kind != "BPE":
        raise ValueError(f"model.type is {kind}; only BPE on bytes can be imported")
    if not isinstance(model.get("vocab"), dict) or not isinstance(model.get("merges"), list):
        raise ValueError("model.vocab must be an object and model.merges a list")
    for field, values in _MODEL_DEFAULTS.items():
        if model.get(field) not in values:
            raise ValueError(f"model.{field} is {model[field]!r}; a byte-level BPE has none, and ids would differ")
    return model


def _check_steps(content: Mapping[str, Any], *, drop_template: bool) -> None:
    """Nothing before or after the model changes text or ids."""
    for step in _flat(content.get("normalizer")):
        raise ValueError(
            f"normalizer {step.get('type')} changes the text before it is cut; this library encodes text as it is"
        )
    for step in _flat(content.get("decoder")):
        if step.get("type") != "ByteLevel":
            raise ValueError(f"decoder {step.get('type')} is not ByteLevel; this is no byte-level BPE")
    for step in _flat(content.get("post_processor")):
        if step.get("type") != "ByteLevel" and not drop_template:
            raise ValueError(
                f"post_processor {step.get('type')} adds tokens around each text, which this library leaves to its "
                "caller; import with drop_template (--drop-template) to go without"
            )


def _pattern(pre_tokenizer: Any) -> str:
    """The pattern of one of the two kinds of pre-tokenizer this library can stand for."""
    steps = _flat(pre_tokenizer)
    kinds = [step.get("type") for step in steps]
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        names = " + ".join(map(str, kinds)) or "missing"
        raise ValueError(f"the pre_tokenizer is {names}; it must be ByteLevel, or Split and then ByteLevel")
    if steps[-1].get("add_prefix_space"):
        raise ValueError("pre_tokenizer ByteLevel has add_prefix_space, which adds a space to each text")
    if steps[-1].get("use_regex", True) != (len(steps) == 1):
        raise ValueError("pre_tokenizer ByteLevel must cut (use_regex) exactly when no Split stands before it")
    return GPT2_PATTERN if len(steps) == 1 else _split_pattern(steps[0])


def _split_pattern(step: Mapping[str, Any]) -> str:
    """The pattern of a Split that keeps all matches, and of the rest all or nothing."""
    pattern = step.get("pattern")
    if not isinstance(pattern, dict) or not isinstance(pattern.get("Regex"), str):
        raise ValueError(f"pre_tokenizer Split must have a Regex pattern; got {pattern!r}")
    check_for_oniguruma(pattern["Regex"])
    plain = plain_pattern(pattern["Regex"])
    behaviour = step.get("behavior"), bool(step.get("invert"))
    if behaviour == ("Isolated", False):
        return keep_unmatched(plain)
    if behaviour == ("Removed", True):
        return plain
    raise ValueError(
        f"pre_tokenizer Split has behavior {behaviour[0]} with invert={behaviour[1]}; only Isolated without and "
        "Removed with invert keep each match as a word"
    )


def _special_ids(added_tokens: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Text -> id of the added tokens."""
    special_ids: dict[str, int] = {}
    for entry in added_tokens:
        token, token_id = entry.get("content"), entry.get("id")
        if not isinstance(token, str) or type(token_id) is not int or token in special_ids:
            raise ValueError(f"added token {entry!r} must have a content of its own and an int id")
        flags = [flag for flag in _PLAIN_FLAGS if entry.get(flag)]
        if flags:
            raise ValueError(f"added token {token!r} has {', '.join(flags)}, which change what text it matches")
        special_ids[token] = token_id
    return special_ids


def _merge(merge: Any, rank: int, alphabet: Mapping[str, int]) -> tuple[bytes, bytes]:
    """A merge, written as "left right" or as [left, right]."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"merge {rank} must be two tokens; got {merge!r}")
    left, right = (from_printable(part, alphabet, f"merge {rank}") for part in parts)
    return left, right


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    """The pre-tokenizer for a pattern; what a pattern of the user's own does not match is dropped, as here."""
    if pattern == GPT2_PATTERN:
        return _byte_level(use_regex=True)
    covers_all = pattern in PATTERNS.values()
    split = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated" if covers_all else "Removed",
        "invert": not covers_all,
    }
    return {"type": "Sequence", "pretokenizers": [split, _byte_level(use_regex=False)]}


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _flat(step: Any) -> list[Mapping[str, Any]]:
    """A step as a list of plain steps; a Sequence is opened."""
    if step is None:
        return []
    if not isinstance(step, dict):
        raise ValueError(f"a step must be an object with a type; got {step!r}")
    if step.get("type") != "Sequence":
        return [step]
    inner: list[Any] = next(
        (step[name] for name in ("normalizers", "pretokenizers", "processors", "decoders") if name in step), []
    )
    return [plain for part in inner for plain in _flat(part)]

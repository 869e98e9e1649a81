"""tiktoken: its rank files, and its Encoding objects.

    NAME.tiktoken         one line per token, "base64-of-the-bytes rank"; the rank is the id
    NAME.tiktoken.json    ours: {"pattern": ..., "special_tokens": {text: id}}, which the rank file lacks

tiktoken has no list of merges. It merges the adjacent pair whose joined bytes have the lowest rank, so the merges
follow from the ranks (`exchange_parts.merges_of_ranks`), provided that ids rise in the order of the merges.

Special tokens of which one begins another are refused: tiktoken does not promise to take the longer one.

Left out: Encoding objects in pickles; unpickling runs whatever program the file contains. Read next:
`huggingface_exchange.py`.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.exchange_parts import TokenizerParts, merges_of_ranks, renumber
from cs336_basics.tokenization.split_patterns import plain_pattern
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.tokenization.tokenizer_files import read_json_object

if TYPE_CHECKING:
    import tiktoken


def to_tiktoken(tokenizer: Tokenizer, *, name: str = "cs336", renumber_ids: bool = False) -> tiktoken.Encoding:
    """A tiktoken Encoding with the ids of `tokenizer`.

    Args:
        tokenizer: the tokenizer.
        name: the Encoding's name.
        renumber_ids: give bytes, merges and special tokens new ids in this order.

    Raises:
        ImportError: tiktoken is not installed.
        ValueError: ids that do not rise with the merges (unless renumbered), or parts that contradict each other.
    """
    try:
        import tiktoken
    except ImportError as error:
        raise ImportError("an Encoding needs tiktoken; install it with: pip install tiktoken") from error
    parts = tiktoken_parts(tokenizer, renumber_ids=renumber_ids)
    return tiktoken.Encoding(
        name,
        pat_str=parts.pattern,
        mergeable_ranks=dict(parts.token_ids),
        special_tokens=dict(parts.special_ids),
    )


def from_tiktoken(encoding: tiktoken.Encoding) -> Tokenizer:
    """A tokenizer with the ids of a tiktoken Encoding.

    Raises:
        ValueError: ranks that are no byte-level BPE, or special tokens of which one begins another.
    """
    return _from_ranks(encoding._mergeable_ranks, encoding._special_tokens, encoding._pat_str)


def write_tiktoken(path: str | os.PathLike[str], tokenizer: Tokenizer, *, renumber_ids: bool = False) -> list[Path]:
    """Write `path` (NAME.tiktoken) and NAME.tiktoken.json.

    Raises:
        ValueError: as `to_tiktoken`; nothing is written then.
    """
    target = Path(path)
    parts = tiktoken_parts(tokenizer, renumber_ids=renumber_ids)
    with atomic_write(target, "wb") as file:
        for token, rank in sorted(parts.token_ids.items(), key=lambda item: item[1]):
            file.write(base64.b64encode(token) + b" %d\n" % rank)
    settings = {"pattern": parts.pattern, "special_tokens": dict(parts.special_ids)}
    write_json(settings_path(target), settings)
    return [target, settings_path(target)]


def read_tiktoken(
    path: str | os.PathLike[str], *, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """Read a rank file.

    Args:
        path: NAME.tiktoken.
        pattern: the pre-token pattern; by default that of NAME.tiktoken.json.
        special_tokens: text -> id; by default those of NAME.tiktoken.json, none when `pattern` is given.

    Raises:
        ValueError: a line that is cut short or no rank, no pattern, or ranks that are no byte-level BPE.
    """
    ranks, settings = read_ranks(path), settings_path(path)
    if pattern is None:
        if not settings.is_file():
            raise ValueError(
                f"{os.fspath(path)} says nothing of how text is cut, and there is no {settings.name} beside it; "
                "give the pattern: gpt2, gpt4, nanochat or a regular expression"
            )
        stored = read_json_object(settings)
        if not isinstance(stored.get("pattern"), str) or not isinstance(stored.get("special_tokens", {}), dict):
            raise ValueError(f'{settings} must hold {{"pattern": text, "special_tokens": {{text: id}}}}')
        pattern = stored["pattern"]
        special_tokens = stored.get("special_tokens") if special_tokens is None else special_tokens
    try:
        return _from_ranks(ranks, special_tokens or {}, pattern)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error


def settings_path(path: str | os.PathLike[str]) -> Path:
    """Where the pattern and the special tokens of a rank file are kept."""
    return Path(f"{os.fspath(path)}.json")


def read_ranks(path: str | os.PathLike[str]) -> dict[bytes, int]:
    """Read the tokens and ranks of a rank file.

    Raises:
        ValueError: a line that is not base64, space, rank; a token or rank given twice. Names the line.
    """
    ranks: dict[bytes, int] = {}
    taken: set[int] = set()
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            encoded, rank_text = line.split()
            token, rank = base64.b64decode(encoded, validate=True), int(rank_text)
        except (ValueError, binascii.Error) as error:
            raise ValueError(
                f"{os.fspath(path)}, line {number}: must be a token in base64, a space and its rank; got {line[:80]!r}"
            ) from error
        if token in ranks or rank in taken:
            raise ValueError(f"{os.fspath(path)}, line {number}: token {token!r} or rank {rank} stands there twice")
        ranks[token] = rank
        taken.add(rank)
    return ranks


def tiktoken_parts(tokenizer: Tokenizer, *, renumber_ids: bool = False) -> TokenizerParts:
    """The parts of a tokenizer whose ids can be tiktoken's ranks.

    Raises:
        ValueError: as `to_tiktoken`.
    """
    parts = TokenizerParts.of(renumber(tokenizer) if renumber_ids else tokenizer)
    _check_prefixes(parts.special_ids)
    ids = [parts.token_ids[left + right] for left, right in parts.merges]
    for rank, (earlier, later) in enumerate(pairwise(ids)):
        if earlier > later:
            raise ValueError(
                f"tiktoken merges in the order of ids, but merge {rank} makes id {earlier} and merge {rank + 1} makes "
                f"id {later}; renumber the ids (token files made with the old ones will not fit)"
            )
    return parts


def _from_ranks(ranks: Mapping[bytes, int], special_ids: Mapping[str, int], pattern: str) -> Tokenizer:
    """The tokenizer of some ranks."""
    _check_prefixes(special_ids)
    return TokenizerParts(ranks, merges_of_ranks(ranks), special_ids, plain_pattern(pattern)).tokenizer()


def _check_prefixes(special_ids: Mapping[str, int]) -> None:
    """No special token begins another."""
    for shorter, longer in pairwise(sorted(special_ids)):
        if longer.startswith(shorter):
            raise ValueError(
                f"special token {shorter!r} begins {longer!r}: tiktoken may take either where both match; rename one"
            )

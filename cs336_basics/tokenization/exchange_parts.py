"""What every tokenizer format holds, taken apart and checked: the gate through which imports and exports pass.

Libraries apply the same merges by different rules:

    this library    of the adjacent pairs in the list of merges, the one listed first, everywhere at once
    tiktoken        has no list: of the adjacent pairs whose joined bytes are a token, the one with the lowest id
    tokenizers      as here, but one place at a time; with ignore_merges a word that is a token is never cut

All agree on every text if each token of several bytes, cut into bytes and merged by the tokens ranked before it, ends
as the two parts of its own merge. Trained tokenizers are so: when a merge was learned its parts stood there. Written
or edited ones need not be, so `TokenizerParts` proves it by doing it, and refuses a vocabulary that two libraries would
read differently.

Left out: padding, truncation, templates. Read next: `exchange.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from cs336_basics.tokenization.byte_alphabet import byte_to_printable
from cs336_basics.tokenization.pretokenization import check_special_tokens, compile_pattern
from cs336_basics.tokenization.tokenizer import Tokenizer

Merges = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class TokenizerParts:
    """A tokenizer that every library reads alike.

    Args:
        token_ids: ordinary token -> id; all 256 bytes and the result of every merge, nothing else.
        merges: first learned first.
        special_ids: special token -> id.
        pattern: the pre-token pattern.

    Raises:
        ValueError: parts that contradict each other; names the first.

    Complexity: every token is merged once, some tens of microseconds each.
    """

    token_ids: Mapping[bytes, int]
    merges: Merges
    special_ids: Mapping[str, int]
    pattern: str

    def __post_init__(self) -> None:
        compile_pattern(self.pattern)
        check_special_tokens(list(self.special_ids))
        _check_ids([*self.token_ids.items(), *self.special_ids.items()])
        _check_bytes(self.token_ids)
        for token in self.special_ids:
            if token.encode("utf-8") in self.token_ids:
                raise ValueError(
                    f"special token {token!r} (id {self.special_ids[token]}) has the bytes of the ordinary token "
                    f"{self.token_ids[token.encode('utf-8')]}; choose a text that no merge makes"
                )
        _check_merges(self.token_ids, self.merges)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerParts:
        """Take a tokenizer apart.

        Raises:
            ValueError: two ids with the same bytes, or parts that contradict each other.
        """
        special_ids = {token: tokenizer.special_id(token) for token in tokenizer.special_tokens}
        taken = set(special_ids.values())
        ordinary = ((token, int(token_id)) for token_id, token in tokenizer.vocab.items() if token_id not in taken)
        return cls(unique_tokens(ordinary), tokenizer.merges, special_ids, tokenizer.pattern)

    def tokenizer(self) -> Tokenizer:
        """Put the tokenizer together."""
        vocab = {token_id: token for token, token_id in self.token_ids.items()}
        vocab |= {token_id: token.encode("utf-8") for token, token_id in self.special_ids.items()}
        specials = sorted(self.special_ids, key=lambda token: self.special_ids[token])
        return Tokenizer(dict(sorted(vocab.items())), self.merges, specials, pattern=self.pattern)


def renumber(tokenizer: Tokenizer, *, byte_order: Literal["value", "gpt2"] = "value") -> Tokenizer:
    """The same tokens under the usual ids: 256 bytes, then the merges in order, then the special tokens in order.

    Token files and models made with the old ids do not fit the new ones.

    Args:
        tokenizer: the tokenizer; it is not changed.
        byte_order: bytes by value, as in cl100k_base, or in GPT-2's order, visible characters first.

    Raises:
        ValueError: parts that contradict each other.
    """
    parts = TokenizerParts.of(tokenizer)
    single = byte_to_printable() if byte_order == "gpt2" else range(256)
    tokens = [bytes([byte]) for byte in single] + [left + right for left, right in parts.merges]
    specials = sorted(parts.special_ids, key=lambda token: parts.special_ids[token])
    special_ids = {token: len(tokens) + index for index, token in enumerate(specials)}
    token_ids = {token: token_id for token_id, token in enumerate(tokens)}
    return TokenizerParts(token_ids, parts.merges, special_ids, parts.pattern).tokenizer()


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Find the merges behind a ranking of tokens, as tiktoken's files hold it.

    Args:
        ranks: token -> rank; the lower is merged first. Ranks of single bytes do not matter.

    Returns:
        One merge per token of several bytes, in the order of their ranks.

    Raises:
        ValueError: a token that the tokens ranked before it do not build from two parts.

    >>> merges_of_ranks({b"t": 0, b"h": 1, b"e": 2, b"th": 3, b"the": 4})
    [(b't', b'h'), (b'th', b'e')]
    """
    merges = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        parts = _parts_below(token, ranks, ranks[token])
        if len(parts) != 2:
            raise ValueError(
                f"token {token!r} (rank {ranks[token]}) cannot be made by one merge: the tokens ranked before it leave "
                f"it in {len(parts)} parts, {_shown(parts)}; the file is damaged, or no byte-level BPE"
            )
        merges.append((parts[0], parts[1]))
    return merges


def canonical_merges(merges: Merges) -> list[tuple[bytes, bytes]]:
    """One merge per token, from a list that may give several.

    Files converted from tiktoken name every cut of a token into two tokens ("t" + "he" beside "th" + "e"), one after
    the other. Only one of them can ever happen; the others are dropped.

    Raises:
        ValueError: merges of one token with another between them, or the one that happens is not in the list.
    """
    results = [left + right for left, right in merges]
    order = list(dict.fromkeys(results))
    if len(order) == len(results):
        return list(merges)
    blocks = [token for index, token in enumerate(results) if index == 0 or results[index - 1] != token]
    if len(blocks) > len(order):
        repeated = next(token for token in order if blocks.count(token) > 1)
        raise ValueError(f"several merges make {repeated!r}, with others between them; one token needs one merge")
    canonical, given = merges_of_ranks({token: rank for rank, token in enumerate(order)}), set(merges)
    for merge in canonical:
        if merge not in given:
            raise ValueError(f"no merge of {merge[0]!r} and {merge[1]!r}, by which {merge[0] + merge[1]!r} is reached")
    return canonical


def unique_tokens(entries: Iterable[tuple[bytes, int]]) -> dict[bytes, int]:
    """Token -> id; refuses two ids for one token."""
    token_ids: dict[bytes, int] = {}
    for token, token_id in entries:
        if token in token_ids:
            raise ValueError(
                f"token {token!r} has two ids, {token_ids[token]} and {token_id}; one of them is never used: remove it"
            )
        token_ids[token] = token_id
    return token_ids


def _check_ids(ids: Sequence[tuple[bytes | str, int]]) -> None:
    """Ids are ints from 0, each given once."""
    owner: dict[int, bytes | str] = {}
    for token, token_id in ids:
        if type(token_id) is not int or token_id < 0:
            raise ValueError(f"token {token!r} must have an int id from 0; got {token_id!r}")
        if token_id in owner:
            raise ValueError(f"tokens {owner[token_id]!r} and {token!r} share the id {token_id}; each needs its own")
        owner[token_id] = token


def _check_bytes(token_ids: Mapping[bytes, int]) -> None:
    """Every byte is a token, so that every text can be encoded."""
    missing = [byte for byte in range(256) if bytes([byte]) not in token_ids]
    if missing:
        named = ", ".join(f"0x{byte:02x}" for byte in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise ValueError(
            f"the vocabulary lacks {len(missing)} of the 256 single bytes ({named}); a byte-level tokenizer needs all"
        )


def _check_merges(token_ids: Mapping[bytes, int], merges: Merges) -> None:
    """Merges and vocabulary tell the same story."""
    for rank, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in token_ids:
                raise ValueError(f"merge {rank} ({left!r}, {right!r}) needs the token {token!r}: not in the vocabulary")
    made = {left + right: rank for rank, (left, right) in enumerate(merges)}
    if len(made) < len(merges):
        token = next(left + right for rank, (left, right) in enumerate(merges) if made[left + right] != rank)
        raise ValueError(f"several merges make {token!r}; one token needs one merge")
    for token, token_id in token_ids.items():
        if len(token) != 1 and token not in made:
            raise ValueError(
                f"no merge makes the token {token!r} (id {token_id}); name it among the special tokens, or remove it"
            )
    for rank, (given, found) in enumerate(zip(merges, merges_of_ranks(made), strict=True)):
        if given != found:
            raise ValueError(
                f"merge {rank} joins {given[0]!r} and {given[1]!r}, but the merges before it build {found[0]!r} and "
                f"{found[1]!r} of the same bytes; libraries would cut such words differently"
            )


def _parts_below(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """The token's bytes, merged by the tokens ranked below `limit`, the lowest first."""
    parts = [token[index : index + 1] for index in range(len(token))]
    pair_ranks = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
    while pair_ranks and (lowest := min(pair_ranks)) < limit:
        left = pair_ranks.index(lowest)
        parts[left : left + 2] = [parts[left] + parts[left + 1]]
        del pair_ranks[left]
        for pair in (left - 1, left):
            if 0 <= pair < len(pair_ranks):
                pair_ranks[pair] = ranks.get(parts[pair] + parts[pair + 1], limit)
    return parts


def _shown(parts: Sequence[bytes]) -> str:
    """A few parts for a message."""
    return ", ".join(map(repr, parts[:4])) + (" ..." if len(parts) > 4 else "")

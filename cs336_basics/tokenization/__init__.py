"""Tokenization: text to integers and back. Start with `pretokenization.py`, then `bpe.py`, then `tokenizer.py`."""

from cs336_basics.tokenization.bpe import train_bpe, train_bpe_from_counts
from cs336_basics.tokenization.byte_alphabet import byte_to_printable, printable_to_byte
from cs336_basics.tokenization.file_chunks import find_chunk_boundaries
from cs336_basics.tokenization.pretoken_counts import count_pretokens
from cs336_basics.tokenization.pretokenization import (
    GPT2_PATTERN,
    GPT4_PATTERN,
    NANOCHAT_PATTERN,
    pretokenize,
    split_on_special_tokens,
    stream_segments,
)
from cs336_basics.tokenization.tokenizer import Tokenizer

__all__ = [
    "GPT2_PATTERN",
    "GPT4_PATTERN",
    "NANOCHAT_PATTERN",
    "Tokenizer",
    "byte_to_printable",
    "count_pretokens",
    "find_chunk_boundaries",
    "pretokenize",
    "printable_to_byte",
    "split_on_special_tokens",
    "stream_segments",
    "train_bpe",
    "train_bpe_from_counts",
]

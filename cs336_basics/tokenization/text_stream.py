"""Text from token ids as they come, for a model that writes while one reads.

A character may be spread over several tokens; its bytes wait until it is whole. Left out: everything else. Read next:
`tokenizer.py`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from cs336_basics.tokenization.tokenizer import Tokenizer


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """The text of ids as they come; a character whose bytes are spread over tokens waits for its last byte.

    Raises:
        ValueError: an id that the tokenizer does not know.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        if token not in tokenizer.vocab:
            raise ValueError(
                f"id {token} is not in the tokenizer (vocab_size {tokenizer.vocab_size}); use the other one"
            )
        yield decoder.decode(tokenizer.vocab[token])
    yield decoder.decode(b"", final=True)

"""One face for two kinds of tokenizer: ours, and those of Hugging Face.

    encode             text to ids, nothing added
    encode_document    text to ids with what the tokenizer puts before a document by itself (Llama 3: BOS)
    eos_id, pad_id     the token that ends a document; padding is EOS where the tokenizer has no token of its own for it

Padding may thus be the same id as the end of a response, so nothing in this package finds out by comparing ids where
a response ends: lengths are kept. Read next: `response_tokens.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cs336_basics.corpora.corpus_files import END_OF_TEXT


class TextTokenizer:
    """Wraps a `cs336_basics` Tokenizer, or any object with Hugging Face's `encode`, `decode` and `eos_token_id`.

    Args:
        tokenizer: one of the two, or a TextTokenizer, whose tokenizer is taken.

    Raises:
        TypeError: neither.
        ValueError: it has no token for the end of a document.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer: Any = tokenizer.tokenizer if isinstance(tokenizer, TextTokenizer) else tokenizer
        if not (hasattr(self.tokenizer, "encode") and hasattr(self.tokenizer, "decode")):
            raise TypeError(f"a tokenizer needs encode and decode; {type(tokenizer).__name__} has not both")
        self.is_huggingface = hasattr(self.tokenizer, "eos_token_id")
        if self.is_huggingface:
            eos, pad = self.tokenizer.eos_token_id, getattr(self.tokenizer, "pad_token_id", None)
        else:
            eos, pad = self.tokenizer.special_id(END_OF_TEXT), None
        if eos is None:
            raise ValueError("the tokenizer has no end-of-text token; set tokenizer.eos_token")
        self.eos_id, self.pad_id = int(eos), int(eos if pad is None else pad)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""
        if self.is_huggingface:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return self.tokenizer.encode(text)

    def encode_document(self, text: str) -> list[int]:
        """Ids with the tokens that the tokenizer adds by default; ours adds none."""
        return list(self.tokenizer.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; end-of-text and padding are left out."""
        kept = [i for i in ids if i not in (self.eos_id, self.pad_id)]
        return self.tokenizer.decode(kept)

    @property
    def vocab(self) -> Mapping[int, bytes]:
        """Bytes of each id, as the inference engine needs them.

        Raises:
            TypeError: not a tokenizer of ours.
        """
        if self.is_huggingface:
            raise TypeError(
                "the inference engine cuts text at bytes and needs a cs336 Tokenizer; use `LockstepSampler`"
            )
        return self.tokenizer.vocab

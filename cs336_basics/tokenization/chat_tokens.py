"""The special tokens of a chat: who speaks, and where a tool is called and answers.

    <|bos|> <|user_start|> What is 2 + 2? <|user_end|> <|assistant_start|> 4 <|assistant_end|>

The order is nanochat's, and they take the last nine ids: a vocabulary of 65,536 has 256 bytes, 65,271 merges and these.

Left out: the rendering of conversations and the loss mask, which belong to alignment. Read next: `tokenizer.py`.
"""

from __future__ import annotations

from cs336_basics.tokenization.tokenizer import Tokenizer

CHAT_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)


def add_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer with the chat tokens under its last nine ids; all other ids stay.

    Args:
        tokenizer: it is not changed. One that has the tokens there already is returned as it is.

    Raises:
        ValueError: it has some of them, or has them elsewhere.
    """
    if has_chat_tokens(tokenizer):
        return tokenizer
    texts = {token.encode("utf-8") for token in CHAT_TOKENS}
    present = sorted(token.decode("utf-8") for token in tokenizer.vocab.values() if token in texts)
    if present:
        raise ValueError(
            f"the vocabulary has {', '.join(present)} already, but not all nine chat tokens in order under its last "
            "ids; train or import the tokenizer without them, then add them"
        )
    specials = [*tokenizer.special_tokens, *CHAT_TOKENS]
    return Tokenizer(tokenizer.vocab, tokenizer.merges, specials, pattern=tokenizer.pattern)


def has_chat_tokens(tokenizer: Tokenizer) -> bool:
    """Whether the chat tokens stand in order under the last nine ids."""
    first = tokenizer.vocab_size - len(CHAT_TOKENS)
    return all(
        token in tokenizer.special_tokens and tokenizer.special_id(token) == first + index
        for index, token in enumerate(CHAT_TOKENS)
    )

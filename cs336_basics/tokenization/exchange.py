"""Exchange of tokenizers with other programs: one function to read any supported file, one to write any format.

    format        files                                          read by
    cs336         vocab.json merges.txt special_tokens.json      this library (`Tokenizer.load`)
    gpt2          vocab.json merges.txt added_tokens.json        GPT-2's program, transformers, tokenizers
    tiktoken      tokenizer.tiktoken tokenizer.tiktoken.json     tiktoken.load.load_tiktoken_bpe (the ranks)
    huggingface   tokenizer.json tokenizer_config.json           tokenizers, transformers
    nanochat      those of tiktoken, and token_bytes.pt          nanochat, after `nanochat_recipe`

Ids stay as they are unless renumbering is asked for. Everything is checked before anything is written.

nanochat keeps its tokenizer as tokenizer.pkl, a pickled tiktoken Encoding. Unpickling a file runs the program in it, so
such a file is never read here; `nanochat_recipe` gives the lines that turn ranks into it, or it into ranks.

Left out: SentencePiece, WordPiece, Unigram. Read next: `exchange_parts.py` for the checks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cs336_basics.corpora.corpus_files import END_OF_TEXT
from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.tokenization.byte_alphabet import byte_to_printable
from cs336_basics.tokenization.chat_tokens import CHAT_TOKENS, has_chat_tokens
from cs336_basics.tokenization.exchange_parts import TokenizerParts, renumber, unique_tokens
from cs336_basics.tokenization.huggingface_exchange import read_huggingface, write_huggingface
from cs336_basics.tokenization.pretokenization import GPT2_PATTERN
from cs336_basics.tokenization.split_patterns import pattern_by_name
from cs336_basics.tokenization.tiktoken_exchange import read_tiktoken, tiktoken_parts, write_tiktoken
from cs336_basics.tokenization.tokenizer import Tokenizer
from cs336_basics.tokenization.tokenizer_files import (
    read_json_object,
    read_merges,
    read_vocab,
    to_printable,
    write_merges,
)

Format = Literal["cs336", "gpt2", "tiktoken", "huggingface", "nanochat"]


def export_tokenizer(
    tokenizer: Tokenizer, directory: str | os.PathLike[str], *, format: Format, renumber_ids: bool = False
) -> list[Path]:
    """Write a tokenizer for another program.

    Args:
        tokenizer: the tokenizer.
        directory: folder to write into.
        format: see the head of this file.
        renumber_ids: give bytes, merges and special tokens new ids in this order (bytes in GPT-2's order for gpt2).

    Returns:
        The files written.

    Raises:
        ValueError: the format cannot hold the tokenizer, or the tokenizer contradicts itself; nothing is written.
    """
    folder = Path(directory)
    if renumber_ids:
        tokenizer = renumber(tokenizer, byte_order="gpt2" if format == "gpt2" else "value")
    if format == "gpt2":
        return write_gpt2(folder, tokenizer)
    if format == "tiktoken":
        return write_tiktoken(folder / "tokenizer.tiktoken", tokenizer)
    if format == "huggingface":
        return write_huggingface(folder, tokenizer)
    if format == "nanochat":
        return write_nanochat(folder, tokenizer)
    if format == "cs336":
        TokenizerParts.of(tokenizer).tokenizer().save(folder)
        return [folder / name for name in ("vocab.json", "merges.txt", "special_tokens.json")]
    raise ValueError(f"format must be cs336, gpt2, tiktoken, huggingface or nanochat; got {format!r}")


def import_tokenizer(
    path: str | os.PathLike[str],
    *,
    pattern: str | None = None,
    special_tokens: Sequence[str] | None = None,
    drop_template: bool = False,
) -> Tokenizer:
    """Read a tokenizer of any supported format; the kind is seen from the names of the files.

    Args:
        path: a folder, or a .tiktoken, tokenizer.json or vocab.json file.
        pattern: gpt2, gpt4, nanochat or a regular expression, where the files do not say.
        special_tokens: GPT-2's files only: tokens of vocab.json that are special; <|endoftext|> by default.
        drop_template: Hugging Face only: go without the tokens that a post-processor adds around a text.

    Raises:
        FileNotFoundError: nothing there, or a folder without tokenizer files.
        ValueError: another kind of file, or contents that contradict each other; says which.
    """
    file = _main_file(Path(path))
    if file.suffix == ".pkl":
        raise ValueError(f"{file} is a pickle, and reading it would run any program in it. {nanochat_recipe(file)}")
    if pattern is not None:
        pattern = pattern_by_name(pattern)
    if file.suffix == ".tiktoken":
        return read_tiktoken(file, pattern=pattern)
    if file.name == "special_tokens.json":
        return TokenizerParts.of(Tokenizer.load(file.parent)).tokenizer()
    if file.suffix != ".json":
        raise ValueError(f"{file} is no tokenizer file this library reads: .tiktoken, tokenizer.json or vocab.json")
    if "model" in read_json_object(file):
        return read_huggingface(file, drop_template=drop_template)
    return read_gpt2(file, pattern=pattern or GPT2_PATTERN, special_tokens=special_tokens)


def read_gpt2(
    vocab_path: str | os.PathLike[str], *, pattern: str = GPT2_PATTERN, special_tokens: Sequence[str] | None = None
) -> Tokenizer:
    """Read vocab.json with merges.txt, and added_tokens.json where there is one, from the same folder.

    Args:
        vocab_path: the vocab.json.
        pattern: the pre-token pattern, which the files do not hold.
        special_tokens: tokens of vocab.json that are special; <|endoftext|> by default, if it is there.

    Raises:
        FileNotFoundError: no merges.txt.
        ValueError: files that contradict each other; a special token that is in none of them.
    """
    path = Path(vocab_path)
    spelled, merges = read_json_object(path), read_merges(path.with_name("merges.txt"))
    added_path = path.with_name("added_tokens.json")
    special_ids = read_json_object(added_path) if added_path.is_file() else {}
    for token, token_id in special_ids.items():
        if spelled.get(token, token_id) != token_id:
            raise ValueError(f"{token!r} has the id {spelled[token]} in {path}, but {token_id} in {added_path}")
    for token in (END_OF_TEXT,) if special_tokens is None else special_tokens:
        if token in spelled:
            special_ids[token] = spelled[token]
        elif special_tokens is not None and token not in special_ids:
            raise ValueError(f"special token {token!r} is neither in {path} nor in added_tokens.json")
    vocab = read_vocab(path, skip=special_ids)
    token_ids = unique_tokens((token, token_id) for token_id, token in vocab.items())
    try:
        return TokenizerParts(token_ids, merges, special_ids, pattern).tokenizer()
    except ValueError as error:
        raise ValueError(f"{path} and merges.txt: {error}") from error


def write_gpt2(directory: str | os.PathLike[str], tokenizer: Tokenizer) -> list[Path]:
    """Write vocab.json, merges.txt and added_tokens.json (special tokens, which stand in vocab.json too).

    Raises:
        ValueError: a pattern other than GPT-2's, which these files cannot name, parts that contradict each other, or a
            folder with a tokenizer of this library, whose vocab.json would be replaced.
    """
    parts, folder, alphabet = TokenizerParts.of(tokenizer), Path(directory), byte_to_printable()
    if (folder / "special_tokens.json").exists():
        raise ValueError(
            f"{folder} holds a tokenizer of this library, which has a vocab.json too; choose another folder"
        )
    if parts.pattern != GPT2_PATTERN:
        raise ValueError(
            f"GPT-2's files cannot say that text is cut by {parts.pattern!r}; export as huggingface or tiktoken"
        )
    spelled = {to_printable(token, alphabet): token_id for token, token_id in parts.token_ids.items()}
    for token in parts.special_ids:
        if token in spelled:
            raise ValueError(f"special token {token!r} is how vocab.json spells an ordinary token; rename it")
    spelled |= parts.special_ids
    write_json(folder / "vocab.json", dict(sorted(spelled.items(), key=lambda item: item[1])))
    write_merges(folder / "merges.txt", parts.merges)
    write_json(folder / "added_tokens.json", dict(parts.special_ids))
    return [folder / name for name in ("vocab.json", "merges.txt", "added_tokens.json")]


def write_nanochat(directory: str | os.PathLike[str], tokenizer: Tokenizer) -> list[Path]:
    """Write the ranks, pattern and special tokens, and token_bytes.pt: the bytes of each id, 0 for special tokens.

    nanochat itself takes the length of the decoded token, which counts half a character as the three bytes of U+FFFD;
    here it is the true length.

    Raises:
        ValueError: bytes, merges and the nine chat tokens do not follow each other in this order from id 0.
    """
    import torch

    folder, parts = Path(directory), tiktoken_parts(tokenizer)
    usual = sorted(parts.token_ids.values()) == list(range(len(parts.token_ids)))
    if not usual or not has_chat_tokens(tokenizer):
        raise ValueError(
            f"nanochat wants bytes and merges from id 0 and {', '.join(CHAT_TOKENS)} last; "
            "use add_chat_tokens (--chat-tokens) and renumbering (--renumber)"
        )
    files = write_tiktoken(folder / "tokenizer.tiktoken", tokenizer)
    with atomic_write(folder / "token_bytes.pt", "wb") as file:
        torch.save(torch.from_numpy(tokenizer.token_byte_lengths()).to(torch.int32), file)
    return [*files, folder / "token_bytes.pt"]


def nanochat_recipe(pickle_path: str | os.PathLike[str] = "tokenizer.pkl") -> str:
    """The lines to run, with tiktoken installed, between nanochat's tokenizer.pkl and rank files."""
    name = os.fspath(pickle_path)
    return (
        "Where you trust it, run this with tiktoken and cs336 installed, then import the folder it writes:\n"
        "    import pickle\n"
        "    from cs336_basics.tokenization.exchange import export_tokenizer\n"
        "    from cs336_basics.tokenization.tiktoken_exchange import from_tiktoken\n"
        f"    encoding = pickle.load(open({name!r}, 'rb'))\n"
        "    export_tokenizer(from_tiktoken(encoding), 'ranks', format='tiktoken')\n"
        f"The other way: pickle.dump(to_tiktoken(import_tokenizer('ranks')), open({name!r}, 'wb'))"
    )


def _main_file(path: Path) -> Path:
    """The file by which the kind of tokenizer is told."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no tokenizer at {path}: there is no such file or folder")
    ranks = sorted(path.glob("*.tiktoken"))
    if len(ranks) > 1:
        raise ValueError(f"{path} holds several rank files, {', '.join(file.name for file in ranks)}; name one")
    candidates = [path / "special_tokens.json", *ranks, path / "tokenizer.json", path / "vocab.json"]
    found = next((file for file in [*candidates, path / "tokenizer.pkl"] if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"no tokenizer files in {path}: no vocab.json, tokenizer.json or *.tiktoken")
    return found

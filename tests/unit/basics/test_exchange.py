"""Exported tokenizers, read by the programs they are for, give the same ids; imported ones too; bad files are named."""

from __future__ import annotations

import base64
import json
import pydoc_data.topics
import random
import unicodedata
from pathlib import Path

import pytest
import regex
import tiktoken
import tiktoken.load
import torch

from cs336_basics.tokenization import GPT2_PATTERN, Tokenizer, byte_to_printable
from cs336_basics.tokenization.chat_tokens import CHAT_TOKENS, add_chat_tokens
from cs336_basics.tokenization.exchange import export_tokenizer, import_tokenizer
from cs336_basics.tokenization.exchange_parts import TokenizerParts, canonical_merges, merges_of_ranks, renumber
from cs336_basics.tokenization.pretokenization import GPT4_PATTERN, NANOCHAT_PATTERN
from cs336_basics.tokenization.split_patterns import plain_pattern
from cs336_basics.tokenization.tiktoken_exchange import from_tiktoken, to_tiktoken, write_tiktoken
from cs336_course.cli import main
from tests.fixtures.texts import FOREIGN
from tests.fixtures.tokenizer_files import load_vocab_and_merges
from tests.naive_bpe import naive_train_bpe

EOT = "<|endoftext|>"
OWN_PATTERN = r"\p{L}+|\p{N}| +|\n"  # drops punctuation
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN, "nanochat": NANOCHAT_PATTERN, "own": OWN_PATTERN}
PIECES = [
    " ", "  ", "     ", "\n", "\n\n", "\r\n", "\r", "\t", "\u00a0", "\u3000", "'s", "'LL", "don't", "'\u017f",
    "1", "12345", "\u0663", "the", " and", "Hello", "!", "...", "\u201cx\u201d", EOT, "<|bos|>", "<|user_start|>",
    "<|endof", "\x00", "\x7f", "\x85", "\ufffd", *(line[:7] for line in FOREIGN),
]  # fmt: skip


def random_texts(count: int, *, seed: int) -> list[str]:
    """Pieces and random characters. Only characters of Unicode 3.2: the libraries know different later versions."""
    rng = random.Random(seed)
    category = unicodedata.ucd_3_2_0.category
    old = [c for c in map(chr, range(0x30000)) if category(c) not in ("Cn", "Cs", "Co")]
    return [
        "".join(rng.choice(PIECES) if rng.random() < 0.7 else rng.choice(old) for _ in range(rng.randrange(25)))
        for _ in range(count)
    ]


RANDOM_TEXTS = random_texts(700, seed=0)
REAL_TEXT = pydoc_data.topics.topics["typesseq"][:20_000] + "".join(FOREIGN)


@pytest.fixture(scope="module")
def files() -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    return load_vocab_and_merges()


def tokenizer_with(files, pattern: str) -> Tokenizer:
    return add_chat_tokens(Tokenizer(*files, [EOT], pattern=pattern))


def shuffled(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer under other ids, with gaps; single bytes anywhere."""
    ids = random.Random(1).sample(range(5, 9000), len(tokenizer.vocab))
    vocab = dict(zip(ids, tokenizer.vocab.values(), strict=True))
    return Tokenizer(vocab, tokenizer.merges, tokenizer.special_tokens, pattern=tokenizer.pattern)


# Each library reads what was exported


@pytest.mark.parametrize("name", PATTERNS)
def test_tiktoken_gives_the_same_ids(files, name, tmp_path):
    tokenizer = tokenizer_with(files, PATTERNS[name])
    path, settings = export_tokenizer(tokenizer, tmp_path, format="tiktoken")
    stored = json.loads(settings.read_text(encoding="utf-8"))
    ranks = tiktoken.load.load_tiktoken_bpe(str(path))
    from_file = tiktoken.Encoding(
        "x", pat_str=stored["pattern"], mergeable_ranks=ranks, special_tokens=stored["special_tokens"]
    )
    for encoding in (from_file, to_tiktoken(tokenizer)):
        for text in [*RANDOM_TEXTS, REAL_TEXT]:
            assert tokenizer.encode(text) == encoding.encode(text, allowed_special="all")
        assert [tokenizer.vocab[i] for i in sorted(tokenizer.vocab)] == [
            encoding.decode_single_token_bytes(i) for i in sorted(tokenizer.vocab)
        ]


@pytest.mark.parametrize("ids", ["in order", "shuffled"])
@pytest.mark.parametrize("name", PATTERNS)
def test_tokenizers_and_transformers_give_the_same_ids(files, name, ids, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    tokenizer = tokenizer_with(files, PATTERNS[name])
    if ids == "shuffled":
        tokenizer = shuffled(tokenizer)
    path = export_tokenizer(tokenizer, tmp_path, format="huggingface")[0]
    rust = tokenizers.Tokenizer.from_file(str(path))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path))
    for text in [*RANDOM_TEXTS, REAL_TEXT]:
        expected = tokenizer.encode(text)
        assert rust.encode(text).ids == expected
        assert rust.decode(expected, skip_special_tokens=False) == tokenizer.decode(expected)
    for text in [*RANDOM_TEXTS[:200], REAL_TEXT]:
        assert fast(text)["input_ids"] == tokenizer.encode(text)
    auto = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert auto(REAL_TEXT)["input_ids"] == tokenizer.encode(REAL_TEXT)
    assert (auto.bos_token, auto.eos_token) == ("<|bos|>", EOT)


def test_gpt2_files_are_read_by_tokenizers(files, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizer_with(files, GPT2_PATTERN)
    vocab, merges, added = export_tokenizer(tokenizer, tmp_path, format="gpt2")
    rust = tokenizers.ByteLevelBPETokenizer(str(vocab), str(merges))
    rust.add_special_tokens(list(json.loads(added.read_text(encoding="utf-8"))))
    for text in [*RANDOM_TEXTS, REAL_TEXT]:
        assert rust.encode(text).ids == tokenizer.encode(text)


@pytest.mark.parametrize("special", ["<|a b|>", "\u6f22", "\u0120the", " x"])
def test_special_tokens_that_are_no_printable_bytes(files, special, tmp_path):
    """Spaces and characters outside the alphabet of bytes stand as they are; what looks like a token is refused."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = Tokenizer(*files, [EOT, special])
    if special == "\u0120the":
        with pytest.raises(ValueError, match="spells the ordinary token"):
            export_tokenizer(tokenizer, tmp_path, format="huggingface")
        with pytest.raises(ValueError, match="spells an ordinary token"):
            export_tokenizer(tokenizer, tmp_path, format="gpt2")
        return
    text = f"a{special}b {special}{EOT} the{special} "
    export_tokenizer(tokenizer, tmp_path / "h", format="huggingface")
    rust = tokenizers.Tokenizer.from_file(str(tmp_path / "h" / "tokenizer.json"))
    assert rust.encode(text).ids == tokenizer.encode(text)
    for format in ("gpt2", "tiktoken", "huggingface", "cs336"):
        export_tokenizer(tokenizer, tmp_path / format, format=format)
        assert import_tokenizer(tmp_path / format).encode(text) == tokenizer.encode(text)


def test_invalid_utf8_decodes_alike(files, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizer_with(files, GPT2_PATTERN)
    rust = tokenizers.Tokenizer.from_file(str(export_tokenizer(tokenizer, tmp_path, format="huggingface")[0]))
    encoding, byte_id = to_tiktoken(tokenizer), {token: token_id for token_id, token in tokenizer.vocab.items()}
    rng = random.Random(3)
    sequences = [b"\xff\xfea", b"\xe4\xb8", b"a\xf0\x9f\x99b", b"\xed\xa0\x80", b"\xc0\xaf"]
    sequences += [bytes(rng.choices(range(256), k=12)) for _ in range(300)]
    for data in sequences:
        ids = [byte_id[bytes([byte])] for byte in data]
        expected = data.decode("utf-8", errors="replace")
        assert tokenizer.decode(ids) == expected == encoding.decode(ids) == rust.decode(ids)


def test_nanochat_files(files, tmp_path):
    tokenizer = renumber(tokenizer_with(files, NANOCHAT_PATTERN))
    written = export_tokenizer(tokenizer, tmp_path, format="nanochat")
    assert [path.name for path in written] == ["tokenizer.tiktoken", "tokenizer.tiktoken.json", "token_bytes.pt"]
    token_bytes = torch.load(tmp_path / "token_bytes.pt", weights_only=True)
    encoding = to_tiktoken(tokenizer)
    expected = [
        0 if i in encoding._special_tokens.values() else len(encoding.decode_single_token_bytes(i))
        for i in range(encoding.n_vocab)
    ]
    assert token_bytes.dtype == torch.int32 and token_bytes.tolist() == expected
    assert [encoding.encode_single_token(t) for t in CHAT_TOKENS] == list(range(encoding.n_vocab - 9, encoding.n_vocab))


# Imports


@pytest.mark.parametrize("format", ["cs336", "tiktoken", "huggingface", "gpt2"])
@pytest.mark.parametrize("name", PATTERNS)
def test_there_and_back(files, name, format, tmp_path):
    tokenizer = tokenizer_with(files, PATTERNS[name])
    if format == "gpt2" and name != "gpt2":
        with pytest.raises(ValueError, match="cannot say that text is cut by"):
            export_tokenizer(tokenizer, tmp_path, format=format)
        assert list(tmp_path.iterdir()) == []
        return
    export_tokenizer(tokenizer, tmp_path, format=format)
    back = import_tokenizer(tmp_path)
    assert (back.vocab, back.merges, back.special_tokens, back.pattern) == (
        tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens, tokenizer.pattern,
    )  # fmt: skip


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("split", ["byte level", "GPT-4", "own, isolated"])
def test_tokenizer_of_the_tokenizers_library(split, ignore_merges, tmp_path):
    """Trained and written by tokenizers itself; specials first, so that bytes and merges follow them."""
    tokenizers = pytest.importorskip("tokenizers")
    pre = tokenizers.pre_tokenizers
    rust = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    patterns = {"GPT-4": GPT4_PATTERN, "own, isolated": r"\p{L}+|\p{N}"}
    if split == "byte level":
        rust.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    else:
        cut = pre.Split(tokenizers.Regex(patterns[split]), behavior="isolated")
        rust.pre_tokenizer = pre.Sequence([cut, pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    rust.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=[EOT], initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False
    )
    rust.train_from_iterator([REAL_TEXT], trainer)
    rust.save(str(tmp_path / "tokenizer.json"))
    tokenizer = import_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 900 and tokenizer.special_id(EOT) == 0
    for text in [*RANDOM_TEXTS, REAL_TEXT]:
        ids = rust.encode(text).ids
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == rust.decode(ids, skip_special_tokens=False)


def test_merges_converted_from_tiktoken_name_every_cut(files, tmp_path):
    """As Llama 3's file: for each token all pairs of tokens that join to it. Only the real merges are kept."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizer_with(files, GPT2_PATTERN)
    path = export_tokenizer(tokenizer, tmp_path, format="huggingface")[0]
    content = json.loads(path.read_text(encoding="utf-8"))
    tokens = content["model"]["vocab"].keys() - set(tokenizer.special_tokens)
    content["model"]["merges"] = [
        [token[:cut], token[cut:]]
        for token in (left + right for left, right in content["model"]["merges"])
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    content["model"]["ignore_merges"] = True
    assert len(content["model"]["merges"]) > 1.3 * len(tokenizer.merges)
    path.write_text(json.dumps(content), encoding="utf-8")
    back, rust = import_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(path))
    assert back.merges == tokenizer.merges
    for text in RANDOM_TEXTS:
        assert back.encode(text) == rust.encode(text).ids


SPACES_AT_THE_END = ["a \n ", "a\n\n  ", "\n ", "a.\r\n\t\n", "a  \n\n b", f"a \n {EOT} \n "]


def test_import_of_an_encoding_of_tiktoken(files, monkeypatch):
    """Its own forms of the patterns are recognised, and cut as the plain ones."""
    from tiktoken_ext import openai_public

    tokenizer = renumber(tokenizer_with(files, GPT2_PATTERN))
    ranks = {token: i for i, token in tokenizer.vocab.items() if i < 256 + len(tokenizer.merges)}
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *args, **kwargs: ranks)  # no download
    cl100k = openai_public.cl100k_base()["pat_str"]
    forms = {openai_public.r50k_pat_str: GPT2_PATTERN, cl100k: GPT4_PATTERN, NANOCHAT_PATTERN: NANOCHAT_PATTERN}
    for form, plain in forms.items():
        encoding = tiktoken.Encoding("x", pat_str=form, mergeable_ranks=ranks, special_tokens={EOT: 90_000})
        ours = from_tiktoken(encoding)
        assert ours.pattern == plain and ours.merges == tokenizer.merges and ours.special_id(EOT) == 90_000
        for text in [*RANDOM_TEXTS, REAL_TEXT, *SPACES_AT_THE_END]:
            assert ours.encode(text) == encoding.encode(text, allowed_special={EOT})


def test_renumbered_ids(files):
    tokenizer = shuffled(tokenizer_with(files, GPT4_PATTERN))
    with pytest.raises(ValueError, match="tiktoken merges in the order of ids.*renumber"):
        to_tiktoken(tokenizer)
    encoding = to_tiktoken(tokenizer, renumber_ids=True)
    assert encoding.n_vocab == len(tokenizer.vocab) and encoding.encode("a") == [97]
    for text in RANDOM_TEXTS[:300]:
        assert [tokenizer.vocab[i] for i in tokenizer.encode(text)] == [
            encoding.decode_single_token_bytes(i) for i in encoding.encode(text, allowed_special="all")
        ]
    gpt2 = renumber(tokenizer, byte_order="gpt2")
    assert [gpt2.vocab[i] for i in range(256)] == [bytes([byte]) for byte in byte_to_printable()]
    order = sorted(tokenizer.special_tokens, key=tokenizer.special_id)
    assert [gpt2.special_id(token) for token in order] == list(range(256 + 1500, 256 + 1500 + 10))


def test_merges_of_ranks_equal_those_of_training():
    text = pydoc_data.topics.topics["lambda"] + "aaaa aaaaaa abababab " * 5
    _, merges = naive_train_bpe(text, 256 + 150, [])
    tokens = [*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    assert len(merges) == 150 and merges_of_ranks({token: i for i, token in enumerate(tokens)}) == merges


# Chat tokens


def test_chat_tokens_take_the_last_ids(files):
    plain = Tokenizer(*files, [EOT])
    chat = add_chat_tokens(plain)
    assert chat.vocab_size == plain.vocab_size + 9
    assert [chat.vocab[plain.vocab_size + i].decode() for i in range(9)] == [
        "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
        "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
    ]  # fmt: skip
    assert {i: chat.vocab[i] for i in plain.vocab} == plain.vocab and plain.vocab_size == len(files[0])
    assert chat.encode("a<|user_start|>b") == [*plain.encode("a"), plain.vocab_size + 1, *plain.encode("b")]
    assert add_chat_tokens(chat) is chat
    for specials in (["<|bos|>"], [*CHAT_TOKENS, EOT, "<|pad|>"], [*reversed(CHAT_TOKENS)]):
        with pytest.raises(ValueError, match=r"has .*<\|bos\|>.* already, but not all nine"):
            add_chat_tokens(Tokenizer(*files, specials))


# Bad input


def small_parts(**changes) -> TokenizerParts:
    tokens = [*(bytes([i]) for i in range(256)), b"th", b"the", b" the"]
    parts = {
        "token_ids": {token: i for i, token in enumerate(tokens)},
        "merges": [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")],
        "special_ids": {EOT: 259},
        "pattern": GPT2_PATTERN,
    }
    return TokenizerParts(**(parts | changes))


def small_ids(**changes: int | None) -> dict[bytes, int]:
    ids = dict(small_parts().token_ids) | {k.encode(): v for k, v in changes.items() if v is not None}
    return {token: i for token, i in ids.items() if changes.get(token.decode("latin-1"), 0) is not None}


CONTRADICTIONS = {
    "part not in the vocabulary": (dict(token_ids=small_ids(th=None)), r"merge 0 .*needs the token b'th'"),
    "result not in the vocabulary": (dict(token_ids=small_ids(the=None)), r"merge 1 .*needs the token b'the'"),
    "id given twice": (dict(token_ids=small_ids(the=97)), r"b'a' and b'the' share the id 97"),
    "id of a special token given twice": (dict(special_ids={EOT: 256}), "share the id 256"),
    "negative id": (dict(token_ids=small_ids(the=-1)), "int id from 0; got -1"),
    "no int": (dict(special_ids={EOT: "1"}), "int id from 0; got '1'"),
    "missing byte": (dict(token_ids=small_ids(q=None)), r"lacks 1 of the 256 single bytes \(0x71\)"),
    "token that no merge makes": (dict(token_ids=small_ids(hello=400)), r"no merge makes .* b'hello' \(id 400\)"),
    "empty token": (dict(token_ids=small_parts().token_ids | {b"": 400}), "no merge makes the token b''"),
    "merge given twice": (dict(merges=[*small_parts().merges, (b"t", b"h")]), "several merges make b'th'"),
    "two merges of one token": (
        dict(token_ids=small_ids(he=400), merges=[*small_parts().merges, (b"h", b"e"), (b"t", b"he")]),
        "several merges make b'the'",
    ),
    "merge before its part": (dict(merges=[(b"th", b"e"), (b"t", b"h"), (b" ", b"the")]), "cannot be made by one"),
    "merge that cannot happen": (
        dict(token_ids=small_ids(he=400), merges=[(b"h", b"e"), (b"t", b"h"), (b"th", b"e"), (b" ", b"the")]),
        "merge 2 joins b'th' and b'e', but the merges before it build b't' and b'he'",
    ),
    "special token like a byte": (dict(special_ids={"a": 300}), "'a' .*has the bytes of the ordinary token 97"),
    "empty special token": (dict(special_ids={"": 300}), "empty string"),
    "capturing groups": (dict(pattern="(a)|b"), "capturing groups"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_named(name):
    changes, message = CONTRADICTIONS[name]
    with pytest.raises(ValueError, match=message):
        small_parts(**changes)


def test_a_merge_that_cannot_happen_would_divide_the_libraries():
    """Why it is refused: by the list "the" is t+he, by tiktoken's ranks th+e is tried where he comes later."""
    ranks = small_parts().token_ids | {b"he": 255.5}
    assert merges_of_ranks({t: r for t, r in ranks.items() if t != b"th"})[:2] == [(b"h", b"e"), (b"t", b"he")]


def change(path: Path, *keys, value) -> None:
    """Set one field of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(content), encoding="utf-8")


STRANGE_FIELDS = {
    "WordPiece": (("model", "type"), "WordPiece", "model.type is WordPiece"),
    "Unigram": (("model", "type"), "Unigram", "model.type is Unigram"),
    "no model": (("model",), None, "no model in it"),
    "normalizer": (("normalizer",), {"type": "NFC"}, "normalizer NFC changes the text"),
    "normalizers": (("normalizer",), {"type": "Sequence", "normalizers": [{"type": "Strip"}]}, "normalizer Strip"),
    "byte fallback": (("model", "byte_fallback"), True, "model.byte_fallback is True"),
    "unknown token": (("model", "unk_token"), "[UNK]", r"model.unk_token is '\[UNK\]'"),
    "word ends": (("model", "end_of_word_suffix"), "</w>", "model.end_of_word_suffix"),
    "dropout": (("model", "dropout"), 0.1, "model.dropout is 0.1"),
    "Metaspace": (("pre_tokenizer",), {"type": "Metaspace"}, "pre_tokenizer is Metaspace"),
    "no pre-tokenizer": (("pre_tokenizer",), None, "pre_tokenizer is missing"),
    "prefix space": (("pre_tokenizer", "add_prefix_space"), True, "add_prefix_space"),
    "no pattern": (("pre_tokenizer", "use_regex"), False, "must cut"),
    "decoder": (("decoder",), {"type": "WordPiece"}, "decoder WordPiece"),
    "template": (("post_processor",), {"type": "TemplateProcessing"}, "TemplateProcessing adds .*--drop-template"),
    "added token with a flag": (("added_tokens", 0, "lstrip"), True, "has lstrip"),
    "added token with another id": (("added_tokens", 0, "id"), 7, "has the id 7, but 1756 in model.vocab"),
    "merge of three": (("model", "merges", 0), "a b c", "merge 0 must be two tokens"),
    "merge outside the alphabet": (("model", "merges", 0), ["a", "\u4f60"], "not in the printable-byte alphabet"),
    "id no int": (("model", "vocab", "a"), 1.5, "int id from 0; got 1.5"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE_FIELDS)
def test_strange_tokenizer_json_is_refused(files, name, tmp_path):
    keys, value, message = STRANGE_FIELDS[name]
    path = export_tokenizer(Tokenizer(*files, [EOT]), tmp_path, format="huggingface")[0]
    change(path, *keys, value=value)
    with pytest.raises(ValueError, match=rf"tokenizer\.json: .*{message}" if name != "no model" else message):
        import_tokenizer(path)
    if name == "template":
        assert import_tokenizer(path, drop_template=True).encode("the") == Tokenizer(*files).encode("the")


@pytest.mark.parametrize(
    ("pattern", "behaviour", "message"),
    [
        (r"\p{N}{1,3}+|\s+", "Isolated", "possessive"),
        (r"\w+$|\s+", "Isolated", r"\^, \$"),
        (r"\w+", "MergedWithNext", "MergedWithNext"),
        (r"\w+", "Removed", "Removed with invert=False"),
    ],
)
def test_strange_splits_are_refused(files, pattern, behaviour, message, tmp_path):
    path = export_tokenizer(Tokenizer(*files, [EOT], pattern=r"\w+"), tmp_path, format="huggingface")[0]
    change(path, "pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": pattern})
    change(path, "pre_tokenizer", "pretokenizers", 0, "behavior", value=behaviour)
    change(path, "pre_tokenizer", "pretokenizers", 0, "invert", value=False)
    with pytest.raises(ValueError, match=message):
        import_tokenizer(path)


def test_patterns_that_engines_read_differently_are_not_exported(files, tmp_path):
    for pattern in (r"\p{N}{1,3}+|\s+|\S", r"^a|\s|\S"):
        with pytest.raises(ValueError, match="Oniguruma"):
            export_tokenizer(Tokenizer(*files, [EOT], pattern=pattern), tmp_path, format="huggingface")
    assert list(tmp_path.iterdir()) == []
    assert plain_pattern(r"[\^$]|[^a$]|\$") == r"[\^$]|[^a$]|\$"


def test_damaged_and_foreign_files_are_named(files, tmp_path):
    tokenizer = Tokenizer(*files, [EOT])
    for format in ("gpt2", "tiktoken", "huggingface", "cs336"):
        export_tokenizer(tokenizer, tmp_path / format, format=format)
    ranks = tmp_path / "tiktoken" / "tokenizer.tiktoken"
    lines = ranks.read_bytes().splitlines()
    damaged = {
        b"\n".join(lines)[:-1 - len(lines[-1])] + b"\nIHRo": rf"line {len(lines)}: must be a token in base64",
        b"\n".join([*lines, b"I$Ro 9000"]): "must be a token in base64",
        b"\n".join([*lines, b"IHR 9000"]): "must be a token in base64",
        b"\n".join([*lines, b"YQ== 9000"]): "b'a' or rank 9000 stands there twice",
        b"\n".join([*lines, b"IHRoZXF4eQ== 3"]): "stands there twice",
        b"\n".join([*lines, base64.b64encode(b"zqxj") + b" 9000"]): "cannot be made by one merge.*4 parts",
        b"\n".join(lines[1:]): "lacks 1 of the 256",
    }  # fmt: skip
    for content, message in damaged.items():
        ranks.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            import_tokenizer(ranks)
    ranks.write_bytes(b"\n".join(lines))
    (tmp_path / "tiktoken" / "tokenizer.tiktoken.json").unlink()
    with pytest.raises(ValueError, match="says nothing of how text is cut.*give the pattern"):
        import_tokenizer(ranks)
    assert import_tokenizer(ranks, pattern="gpt2").merges == tokenizer.merges
    for name in ("gpt2/vocab.json", "huggingface/tokenizer.json"):
        whole = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(whole[: len(whole) // 2], encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name} is not valid JSON"):
            import_tokenizer(tmp_path / name)
        (tmp_path / name).write_text(whole.replace('"a": ', '"a": 5, "a": ', 1), encoding="utf-8")
        with pytest.raises(ValueError, match="the name 'a' is given twice"):
            import_tokenizer(tmp_path / name)
    for name, message in [("tokenizer.pkl", "is a pickle.*pickle.load"), ("spiece.model", "no tokenizer file")]:
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
        with pytest.raises(ValueError, match=rf"(?s){message}"):
            import_tokenizer(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        import_tokenizer(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no tokenizer files in"):
        import_tokenizer(tmp_path / "empty")


def test_gpt2_files_that_contradict_each_other(files, tmp_path):
    tokenizer = Tokenizer(*files, [EOT, "<|pad|>"])
    vocab, merges, added = export_tokenizer(tokenizer, tmp_path, format="gpt2")
    added.unlink()
    with pytest.raises(ValueError, match=r"no merge makes the token b'<\|pad\|>' \(id 1757\); name it"):
        import_tokenizer(tmp_path)
    assert import_tokenizer(tmp_path, special_tokens=[EOT, "<|pad|>"]).special_id("<|pad|>") == 1757
    with pytest.raises(ValueError, match="'<x>' is neither in"):
        import_tokenizer(tmp_path, special_tokens=["<x>"])
    added.write_text('{"<|pad|>": 9}')
    with pytest.raises(ValueError, match="has the id 1757 in .* but 9 in"):
        import_tokenizer(tmp_path)
    added.write_text('{"<|new|>": 9000, "<|pad|>": 1757}')
    assert import_tokenizer(tmp_path).special_id("<|new|>") == 9000
    lines = merges.read_text(encoding="utf-8").splitlines()
    merges.write_text("\n".join(lines[:-3]), encoding="utf-8")
    with pytest.raises(ValueError, match="no merge makes the token"):
        import_tokenizer(tmp_path)
    merges.unlink()
    with pytest.raises(FileNotFoundError):
        import_tokenizer(tmp_path)


def test_tiktoken_refuses_special_tokens_that_begin_each_other(files, tmp_path):
    with pytest.raises(ValueError, match=r"'<\|endoftext\|>' begins '<\|endoftext\|>2'"):
        write_tiktoken(tmp_path / "x.tiktoken", Tokenizer(*files, [EOT, "<a>", EOT + "2"]))
    assert list(tmp_path.iterdir()) == []


def test_duplicate_merges_need_to_stand_together():
    merges = [(b"t", b"h"), (b"h", b"e"), (b"th", b"e"), (b"a", b"b"), (b"t", b"he")]
    with pytest.raises(ValueError, match="several merges make b'the', with others between"):
        canonical_merges(merges)
    with pytest.raises(ValueError, match="no merge of b'th' and b'e'"):
        canonical_merges([(b"t", b"h"), (b"h", b"e"), (b"t", b"he"), (b"the", b""), (b"a", b"b")])
    assert canonical_merges([(b"t", b"h"), (b"h", b"e"), (b"t", b"he"), (b"th", b"e")])[-1] == (b"th", b"e")


# Commands


def test_the_commands(files, tmp_path, capsys):
    Tokenizer(*files, [EOT]).save(tmp_path / "tok")
    export = ["tokenizer", "export", str(tmp_path / "tok"), "--out", str(tmp_path / "out"), "--json"]
    assert main([*export, "--format", "nanochat"]) == 1
    assert "nanochat wants bytes and merges from id 0" in capsys.readouterr().err
    assert main([*export, "--format", "nanochat", "--chat-tokens", "--renumber"]) == 0
    written = json.loads(capsys.readouterr().out)
    before = (tmp_path / "tok" / "vocab.json").read_bytes()
    assert main([*export[:3], "--out", str(tmp_path / "tok"), "--format", "gpt2"]) == 1
    assert "choose another folder" in capsys.readouterr().err
    assert (tmp_path / "tok" / "vocab.json").read_bytes() == before
    assert written["vocab_size"] == len(files[0]) + 9 and all(Path(file).is_file() for file in written["files"])
    again = ["tokenizer", "import", str(tmp_path / "out"), "--out", str(tmp_path / "again"), "--json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["special_tokens"] == [EOT, *CHAT_TOKENS]
    loaded = Tokenizer.load(tmp_path / "again")
    encoding = to_tiktoken(add_chat_tokens(Tokenizer(*files, [EOT])), renumber_ids=True)
    assert loaded.encode(REAL_TEXT) == encoding.encode_ordinary(REAL_TEXT)
    assert regex.fullmatch(r"\d+", str(loaded.special_id(EOT)))

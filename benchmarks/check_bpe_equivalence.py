"""Compiled BPE against everything else on random input, at length.

    python benchmarks/check_bpe_equivalence.py [--corpora 10000] [--strings 1000000] [--state FILE]

    corpora   train_bpe(engine="compiled") = train_bpe(engine="plain") = brute force, with each pattern and tie rule,
              special tokens that overlap, alphabets of repeats, contractions, white space, scripts, random code points
    strings   ids of the compiled encoder = ids of tiktoken with the same ranks, for each pattern; and decoding gives
              the string back. Characters that this Python's Unicode does not know yet are left out: classes come from
              the `regex` module here and from Rust there, and the younger of the two knows letters that the other
              takes for signs

Every case comes from its own number, so a failure names the number that repeats it. What is done is noted in the state
file every few seconds; the same call goes on from there. A difference ends the check with its number.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

sys.path.insert(0, str(Path(__file__).parent.parent))

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.tokenization import GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN, Tokenizer, train_bpe
from cs336_basics.tokenization.progress import progress_bar
from tests import naive_bpe

RESULT = Path(__file__).parent / "results" / "bpe_equivalence.json"
EOT = "<|endoftext|>"
PATTERNS = [GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN]
ALPHABETS: list[list[str]] = [
    [*"ab "],
    [*"aaaab "],
    [*"stl' 0.\n", "'S", "'Re", "'\u017f"],
    [*"a  \t", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\x85", "\x1c"],
    [*"aB7.,<|>' \n", "\u00e9", "e\u0301", "\u0663", "\u4e2d", "\u6587", "\U0001f643", "\u00b2", EOT[:5], EOT[5:]],
    [*"the quick brown fox ", " the", " 1234567", "ing", "-----", "    ", "def f(x):\n    "],
]


def random_text(rng: random.Random, longest: int) -> str:
    """Text of one alphabet, or of any characters."""
    length = rng.randint(0, longest)
    if rng.random() < 0.15:
        points = (rng.randrange(rng.choice([0x100, 0x800, 0x10000, 0x110000])) for _ in range(length))
        return "".join(chr(point) for point in points if unicodedata.category(chr(point)) not in ("Cs", "Cn"))
    return "".join(rng.choices(rng.choice(ALPHABETS), k=length))


def check_corpus(number: int, folder: Path) -> bool:
    """One corpus: three trainers, one result."""
    rng = random.Random(f"corpus {number}")
    specials = rng.choice([[], [EOT], [EOT, EOT + EOT, "a"], ["a b", "b"]])
    pieces = [random_text(rng, 80) or "x" for _ in range(rng.randint(1, 4))]
    text = rng.choice(["", " ", *specials]).join(pieces)
    pattern, tie_break, num_merges = rng.choice(PATTERNS), rng.choice(["bytes", "ids"]), rng.choice([1, 8, 30])
    path = folder / "corpus.txt"
    path.write_bytes(text.encode("utf-8"))
    size = 256 + len(specials) + num_merges
    plain, compiled = (
        train_bpe(path, size, specials, pattern=pattern, tie_break=tie_break, engine=engine)
        for engine in ("plain", "compiled")
    )
    return plain == compiled and plain[1] == naive_bpe.train(text, num_merges, specials, pattern, tie_break)


def tokenizers(folder: Path) -> Iterator[tuple[Tokenizer, tiktoken.Encoding]]:
    """One of ours and its rival for each pattern, trained on the alphabets."""
    rng = random.Random("vocabulary")
    path = folder / "corpus.txt"
    path.write_bytes("".join(random_text(rng, 300) for _ in range(2000)).encode("utf-8"))
    for pattern in PATTERNS:
        ours = Tokenizer(*train_bpe(path, 4000, [EOT], pattern=pattern, engine="compiled"), [EOT], pattern=pattern)
        ranks = {token: token_id for token_id, token in ours.vocab.items() if token_id != 0}
        yield ours, tiktoken.Encoding("check", pat_str=pattern, mergeable_ranks=ranks, special_tokens={EOT: 0})


def check_string(number: int, pairs: list[tuple[Tokenizer, tiktoken.Encoding]]) -> bool:
    """One string: two encoders, one result, and back."""
    rng = random.Random(number)
    text = random_text(rng, 60)
    ours, rival = pairs[number % len(pairs)]
    ids = ours.encode_to_array(text, engine="compiled")
    return np.array_equal(ids, rival.encode(text, allowed_special="all")) and ours.decode(ids) == text


def go_through(name: str, total: int, check: Callable[[int], bool], state: dict[str, Any], path: Path | None) -> None:
    """Check the numbers that are not done yet."""
    saved = time.monotonic()
    with progress_bar(name, enabled=sys.stderr.isatty()) as report:
        for number in range(state.get(name, 0), total):
            if not check(number):
                sys.exit(f"{name}: number {number} differs")
            state[name] = number + 1
            if time.monotonic() > saved + 5:
                saved = time.monotonic()
                report(number + 1, total)
                if path:
                    write_json(path, state)
    if path:
        write_json(path, state)
    print(json.dumps({name: state.get(name, 0), "differences": 0}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=int, default=10_000)
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--state", type=Path, help="go on from this file")
    o = parser.parse_args()
    state = json.loads(o.state.read_text()) if o.state and o.state.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        pairs = list(tokenizers(Path(folder)))
        go_through("corpora", o.corpora, lambda number: check_corpus(number, Path(folder)), state, o.state)
        go_through("strings", o.strings, lambda number: check_string(number, pairs), state, o.state)
    write_json(RESULT, state | {"measured": datetime.date.today().isoformat(), "environment": describe_environment()})


if __name__ == "__main__":
    main()

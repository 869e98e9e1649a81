"""Encoding on one thread against tiktoken and Hugging Face tokenizers, with the same ids.

    python benchmarks/bench_bpe_encoding.py [--repeats 7] [--megabytes 20] [--quick]

A tokenizer of 32,768 tokens is trained on real text (`real_text.py`) and given to all three. Ours starts every repeat
with an empty cache of words; the others keep theirs (tiktoken has none). The encoders take turns; medians of CPU time
are compared, since one thread is what is claimed. The ids of all must be equal over the whole text. HF tokenizers get
the documents one by one, as its time per byte grows with the length of a text; the others get one string.

Machine code is loaded before (see bench_bpe_training.py for the time of that).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import numpy as np
import tiktoken
from real_text import END_OF_TEXT, read_documents, write_corpus

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.tokenization import Tokenizer, byte_to_printable, train_bpe

RESULT = Path(__file__).parent / "results" / "bpe_encoding.json"


def tiktoken_encoding(tokenizer: Tokenizer) -> tiktoken.Encoding:
    end = tokenizer.special_id(END_OF_TEXT)
    ranks = {token: token_id for token_id, token in tokenizer.vocab.items() if token_id != end}
    return tiktoken.Encoding(
        "bench", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: end}
    )


def hf_tokenizer(tokenizer: Tokenizer) -> Any:
    from tokenizers import Tokenizer as HFTokenizer
    from tokenizers import models, pre_tokenizers

    show = byte_to_printable()
    vocab = {"".join(show[byte] for byte in token): token_id for token_id, token in tokenizer.vocab.items()}
    merges = [("".join(show[b] for b in left), "".join(show[b] for b in right)) for left, right in tokenizer.merges]
    hf = HFTokenizer(models.BPE(vocab=vocab, merges=merges))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return hf


def timed(encode: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    ids = encode()
    return time.process_time() - start, ids


def measure(tokenizer: Tokenizer, documents: list[str], repeats: int) -> dict[str, Any]:
    text = "".join(documents)
    few = documents[: max(1, len(documents) // 5)]
    rival, hf = tiktoken_encoding(tokenizer), hf_tokenizer(tokenizer)

    def fresh() -> Tokenizer:
        new = Tokenizer(tokenizer.vocab, tokenizer.merges, tokenizer.special_tokens)
        new.encode_to_array("ready", engine="compiled")  # its table of merges; one word in the cache
        return new

    ours = fresh().encode_to_array(text, engine="compiled")
    same_tiktoken = np.array_equal(ours, np.array(rival.encode_ordinary(text)))
    own = np.concatenate([fresh().encode_to_array(document, engine="plain") for document in few[:20]])
    theirs = [token for document in documents for token in hf.encode(document).ids]
    apart = np.concatenate([(tokenizer.encode_to_array(document, engine="compiled")) for document in documents])
    seconds: dict[str, list[float]] = {"ours": [], "tiktoken": [], "HF tokenizers": []}
    for _ in range(repeats):
        new = fresh()
        for name, encode, size in (
            ("ours", lambda new=new: new.encode_to_array(text, engine="compiled"), len(text.encode())),
            ("tiktoken", lambda: rival.encode_ordinary(text), len(text.encode())),
            ("HF tokenizers", lambda: [hf.encode(document).ids for document in few], len("".join(few).encode())),
        ):
            seconds[name].append(timed(encode)[0] / size * 1e6)  # per megabyte
        print(json.dumps({name: round(1 / values[-1], 2) for name, values in seconds.items()}), flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "text_bytes": len(text.encode()),
        "tokens": len(ours),
        "ids_identical": {
            "tiktoken, whole text": same_tiktoken,
            "HF tokenizers, by documents": theirs == apart.tolist(),
            "our readable path, 20 documents": own.tolist() == theirs[: len(own)],
        },
        "mb_per_cpu_second": {name: round(1 / value, 2) for name, value in medians.items()},
        "rival_is_times_ours": {name: round(value / medians["ours"], 2) for name, value in medians.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a small corpus, two repeats, nothing written")
    o = parser.parse_args()
    if o.quick:
        o.repeats, o.megabytes = 2, 3
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.txt")
        write_corpus(corpus, 2_000_000 * o.megabytes)
        documents = list(read_documents(corpus))
        tokenizer = Tokenizer(*train_bpe(corpus, 32_768, [END_OF_TEXT], engine="compiled"), [END_OF_TEXT])
    sample, size = [], 0
    for document in documents:
        sample.append(document)
        size += len(document.encode("utf-8"))
        if size >= o.megabytes * 1_000_000:
            break
    result = {"measured": datetime.date.today().isoformat(), "repeats": o.repeats, "vocab_size": tokenizer.vocab_size,
              **measure(tokenizer, sample, o.repeats), "environment": describe_environment()}  # fmt: skip
    print(json.dumps(result, indent=2))
    if not o.quick:
        write_json(RESULT, result)


if __name__ == "__main__":
    main()

"""BPE training against rustbpe and Hugging Face tokenizers: wall time, CPU time and peak memory.

    python benchmarks/bench_bpe_training.py [--repeats 5] [--vocab-size 32768] [--megabytes 42] [--quick]

Every trainer reads the same file of real text (`real_text.py`), has all cores, the GPT-2 pattern and the same
vocabulary size. Each run is a process of its own, the trainers taking turns, so that other work on the machine hits all
alike; medians are compared. Ours must give the merges of rustbpe (with its tie rule) exactly.

What is timed: the call that trains, reading the file included, imports excluded. Ours is timed in three states:

    ours                    the machine code is loaded, as the others' is after their import
    ours, with loading      importing numba and loading machine code from its store on disk is included
    ours, first ever        with an empty store: all kernels are compiled; happens once after an installation

Peak memory is that of the whole process (VmHWM), and what training adds to the process as it stood before.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from real_text import END_OF_TEXT, read_documents, write_corpus

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_basics.tokenization.pretokenization import GPT2_PATTERN

RESULT = Path(__file__).parent / "results" / "bpe_training.json"
TRAINERS = ("ours", "ours, with loading", "rustbpe", "HF tokenizers")


def memory_mb(field: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status; peak memory is measured on Linux only")


def train_ours(corpus: Path, vocab_size: int, tie_break: str = "bytes") -> list[bytes]:
    from cs336_basics.tokenization.bpe import train_bpe

    _, merges = train_bpe(corpus, vocab_size, [END_OF_TEXT], tie_break=tie_break, engine="compiled")
    return [left + right for left, right in merges]


def train_rustbpe(corpus: Path, vocab_size: int) -> list[bytes]:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(read_documents(corpus), vocab_size - 1, pattern=GPT2_PATTERN)
    return [bytes(token) for token, rank in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])][256:]


def train_hf(corpus: Path, vocab_size: int) -> list[bytes]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(read_documents(corpus), trainer)
    return [b""] * (tokenizer.get_vocab_size() - 257)


def work(name: str, corpus: Path, vocab_size: int) -> dict[str, Any]:
    """Train once in this process, after importing what the trainer needs."""
    if name == "ours":
        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder, "small.txt")
            small.write_text("A few words to load the machine code with.")
            train_ours(small, 270)
    elif name.startswith("ours"):
        pass
    elif name == "rustbpe":
        pass
    else:
        import tokenizers  # noqa: F401
    before = memory_mb("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    train = {"rustbpe": train_rustbpe, "HF tokenizers": train_hf}.get(name, train_ours)
    merges = train(corpus, vocab_size)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory_mb("VmHWM")
    return {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak, "added_mb": peak - before, "merges": len(merges)}


def run(name: str, corpus: Path, vocab_size: int, **environment: str) -> dict[str, Any]:
    """The same in a new process."""
    command = [sys.executable, __file__, "--worker", name, "--corpus", str(corpus), "--vocab-size", str(vocab_size)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | environment)
    return json.loads(done.stdout.splitlines()[-1])


def median_row(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def measure(corpus: Path, vocab_size: int, repeats: int) -> dict[str, Any]:
    """Medians of alternating runs, and how many times as long the rivals take."""
    with tempfile.TemporaryDirectory() as folder:
        first = run("ours, with loading", corpus, vocab_size, NUMBA_CACHE_DIR=folder)
    run("ours", corpus, vocab_size)  # the store on disk is filled from here on
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in TRAINERS}
    for repeat in range(repeats):
        for name in TRAINERS:
            runs[name].append(run(name, corpus, vocab_size))
            print(json.dumps({"repeat": repeat, "trainer": name, **runs[name][-1]}), flush=True)
    rows = {name: median_row(runs[name]) for name in TRAINERS} | {"ours, first ever": first}
    ratios = {
        f"{ours} / {rival}": {
            key: round(rows[rival][key] / rows[ours][key], 2) for key in ("wall_s", "cpu_s", "peak_mb", "added_mb")
        }
        for ours in TRAINERS[:2]
        for rival in TRAINERS[2:]
    }
    return {"rows": rows, "rival_is_times_ours": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--vocab-size", type=int, default=32_768)
    parser.add_argument("--megabytes", type=int, default=42)
    parser.add_argument("--quick", action="store_true", help="a small corpus, two repeats, nothing written")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help="use this text file, documents ended by <|endoftext|>")
    o = parser.parse_args()
    if o.worker:
        print(json.dumps(work(o.worker, o.corpus, o.vocab_size)))
        return
    if o.quick:
        o.repeats, o.megabytes, o.vocab_size = 2, 5, 4096
    with tempfile.TemporaryDirectory() as folder:
        corpus = o.corpus or Path(folder, "corpus.txt")
        facts = {"bytes": corpus.stat().st_size} if o.corpus else write_corpus(corpus, o.megabytes * 1_000_000)
        identical = train_ours(corpus, o.vocab_size, "ids") == train_rustbpe(corpus, o.vocab_size)
        print(json.dumps({"corpus": facts, "merges_identical_to_rustbpe": identical}), flush=True)
        result = {"measured": datetime.date.today().isoformat(), "corpus": facts, "vocab_size": o.vocab_size,
                  "repeats": o.repeats, "merges_identical_to_rustbpe": identical,
                  **measure(corpus, o.vocab_size, o.repeats), "environment": describe_environment()}  # fmt: skip
    print(json.dumps(result, indent=2))
    if not o.quick:
        write_json(RESULT, result)


if __name__ == "__main__":
    main()

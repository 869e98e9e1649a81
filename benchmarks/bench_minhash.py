"""MinHash signatures against datatrove and datasketch: speed on one core, and bias and variance against theory.

    python benchmarks/bench_minhash.py [--repeats 5] [--megabytes 1] [--quick]

All compute 112 hash functions over word 5-grams of the same documents of real text (`real_text.py`), in one process,
taking turns. Medians of the CPU time of calls are compared: all work in one thread, so that is the time on a core of
their own, whatever else the machine does.

    ours                       texts (str) -> signatures: normalization, shingles, hashing, minima
    datatrove                  the same by its MinhashDedupSignature (14 x 8, 64 bits, xxhash), nothing written to disk
    datasketch                 shingles GIVEN as bytes, made beforehand: only its `MinHash.bulk` is timed, with the
                               fastest of its schemes and of three hash functions (SHA-1, its own; xxh32, xxh3_64)
    datasketch, whole          the same with the shingles made by our readable code: what a user of it would wait for
    ... given hashes           both start from the hashes of shingles (ours 64 bits, datasketch 32): only the minima

Bias and variance: pairs of random sets of exactly known similarity J; the estimate over k = 112 functions has mean J
and variance J (1 - J) / k. Datasketch goes through the same sets as a check of the measurement.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from real_text import read_documents, write_corpus

from cs336_basics.runs.atomic import write_json
from cs336_basics.runs.provenance import describe_environment
from cs336_data.deduplication.compiled_shingles import CompiledShingles
from cs336_data.deduplication.minhash import MinHashConfig, signatures
from cs336_data.deduplication.shingles import normalize, shingle_hashes

RESULT = Path(__file__).parent / "results" / "minhash.json"
NUM_HASHES, N = 112, 5


def ngrams(text: str) -> list[bytes]:
    """The shingles of a text as bytes, for datasketch."""
    words = normalize(text).split()
    return [" ".join(words[i : i + N]).encode() for i in range(max(1, len(words) - N + 1))]


def datasketch_bulk(shingles: list[Any], scheme: str, hash_function: Callable[..., int] | None) -> list[Any]:
    from datasketch import MinHash

    return MinHash.bulk(shingles, num_perm=NUM_HASHES, scheme=scheme, hashfunc=hash_function)


def datasketch_variants() -> dict[str, tuple[str, Callable[..., int] | None]]:
    import xxhash

    return {
        "affine32, sha1": ("affine32", None),
        "affine64, sha1": ("affine64", None),
        "affine32, xxh32": ("affine32", xxhash.xxh32_intdigest),
        "affine64, xxh3_64": ("affine64", xxhash.xxh3_64_intdigest),
    }


def fastest_datasketch(shingles: list[list[bytes]], repeats: int) -> tuple[str, dict[str, float]]:
    """The variant with the smallest median, and the medians of all."""
    times = {
        name: statistics.median(seconds(lambda v=variant: datasketch_bulk(shingles, *v)) for _ in range(repeats))
        for name, variant in datasketch_variants().items()
    }
    return min(times, key=times.__getitem__), times


def datatrove_signer() -> Callable[[list[str]], list[Any]]:
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.utils.hashing import HashConfig

    config = MinhashConfig(
        n_grams=N, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64, hash_fc="xxhash")
    )
    step = MinhashDedupSignature(tempfile.gettempdir(), config)

    def sign(texts: list[str]) -> list[Any]:
        found = []
        for text in texts:
            shingles = step.get_shingles(text)
            found.append(step.get_signature(shingles) if shingles.size else None)
        return found

    sign(["some words to load the tokenizer with"])
    return sign


def seconds(call: Callable[[], Any]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def measure_speed(texts: list[str], repeats: int) -> dict[str, Any]:
    """MB of text per CPU second, medians of alternating calls."""
    config = MinHashConfig(num_hashes=NUM_HASHES, num_bands=14, ngrams=N)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    shingles = [ngrams(text) for text in texts]
    hashes = [shingle_hashes(text, N) for text in texts]
    numbers = [(row & np.uint64(0xFFFFFFFF)).tolist() for row in hashes]  # its faster scheme takes 32 bits
    best, variants = fastest_datasketch(shingles, min(3, repeats))
    scheme, hash_function = datasketch_variants()[best]
    datatrove = datatrove_signer()
    kernels = CompiledShingles(config)
    found = kernels.shingles([text.encode() for text in texts])
    room = np.empty((len(texts), NUM_HASHES), dtype=np.uint64)
    calls = {
        "ours": lambda: signatures(texts, config, engine="compiled"),
        "ours, given hashes": lambda: kernels._sign(found, room),
        "datasketch": lambda: datasketch_bulk(shingles, scheme, hash_function),
        "datasketch, whole": lambda: datasketch_bulk(list(map(ngrams, texts)), scheme, hash_function),
        "datasketch, given hashes": lambda: datasketch_bulk(numbers, "affine32", int),
        "datatrove": lambda: datatrove(texts),
    }
    calls["ours"]()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
        print(json.dumps({"repeat": repeat, **{name: round(t[-1], 3) for name, t in times.items()}}), flush=True)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratios = [("ours", "datatrove"), ("ours", "datasketch"), ("ours", "datasketch, whole"),
              ("ours, given hashes", "datasketch, given hashes")]  # fmt: skip
    return {
        "megabytes": round(megabytes, 3),
        "documents": len(texts),
        "shingles": sum(map(len, shingles)),
        "mb_per_cpu_second": {name: round(megabytes / value, 2) for name, value in median.items()},
        "cpu_seconds": {name: [round(v, 4) for v in sorted(values)] for name, values in times.items()},
        "times_as_fast": {f"{ours} / {rival}": round(median[rival] / median[ours], 1) for ours, rival in ratios},
        "datasketch_variant": best,
        "datasketch_variants_cpu_seconds": {name: round(value, 3) for name, value in variants.items()},
    }


def planted(similarity: float, size: int, pair: int) -> tuple[list[str], list[str]]:
    """Two lists of words; the sets have the similarity shared / (2 size - shared)."""
    shared = round(2 * size * similarity / (1 + similarity))
    common, rest = [f"c{pair}x{i}" for i in range(shared)], range(size - shared)
    return common + [f"a{pair}x{i}" for i in rest], common + [f"b{pair}x{i}" for i in rest]


def measure_estimates(pairs: int) -> list[dict[str, Any]]:
    """Bias in standard errors, and variance as a share of the theory's."""
    from datasketch import MinHash

    rows = []
    for similarity in (0.2, 0.5, 0.8, 0.95):
        sets = [words for pair in range(pairs) for words in planted(similarity, 100, pair)]
        exact = len(set(sets[0]) & set(sets[1])) / len(set(sets[0]) | set(sets[1]))
        variance = exact * (1 - exact) / NUM_HASHES
        texts = [" ".join(words) for words in sets]
        found: dict[str, Any] = {}
        for family, count in (("multiply", pairs), ("mersenne", pairs // 10)):
            config = MinHashConfig(num_hashes=NUM_HASHES, num_bands=14, ngrams=1, family=family)  # type: ignore[arg-type]
            found[family] = signatures(texts[: 2 * count], config, engine="compiled")
        data = [[word.encode() for word in words] for words in sets]
        found["datasketch"] = np.array([m.hashvalues for m in MinHash.bulk(data, num_perm=NUM_HASHES)])
        row: dict[str, Any] = {"similarity": round(exact, 4), "variance_by_theory": round(variance, 6)}
        for name, values in found.items():
            estimates = (values[0::2] == values[1::2]).mean(axis=1)
            bias, error = float(estimates.mean() - exact), (variance / len(estimates)) ** 0.5
            row[name] = {
                "pairs": len(estimates),
                "bias": round(bias, 5),
                "bias_in_standard_errors": round(bias / error, 2),
                "variance_over_theory": round(float(estimates.var() / variance), 3),
            }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--megabytes", type=float, default=1)
    parser.add_argument("--pairs", type=int, default=4000, help="planted pairs per similarity")
    parser.add_argument("--quick", action="store_true", help="a small corpus, two repeats, nothing written")
    o = parser.parse_args()
    if o.quick:
        o.repeats, o.megabytes, o.pairs = 2, 0.3, 500
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.txt")
        write_corpus(corpus, int(o.megabytes * 1e6))
        texts = list(read_documents(corpus))
    result = {
        "measured": datetime.date.today().isoformat(),
        "num_hashes": NUM_HASHES,
        "ngrams": N,
        "repeats": o.repeats,
        "speed": measure_speed(texts, o.repeats),
        "estimates": measure_estimates(o.pairs),
        "environment": describe_environment(),
    }
    print(json.dumps(result, indent=2))
    if not o.quick:
        write_json(RESULT, result)


if __name__ == "__main__":
    main()

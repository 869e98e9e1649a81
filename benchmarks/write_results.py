"""Write the README's table of measured results from the JSON files in benchmarks/results/.

    python benchmarks/write_results.py [--tour runs/tour] [--one-hour runs/stories] [--solution runs/solution ...]

With an option the headline numbers of a finished tour, of a run of configs/stories-one-hour.toml, or of `cs336 scaling
solve` are first copied into results/, with the machine they were measured on. Nothing in the table is typed by hand.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.directory import RunDirectory
from cs336_scaling.worked_solution import PREDICTION, QUERIES, TARGET_RUN

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: begin.", "<!-- results: end -->"


def record_tour(directory: Path) -> None:
    """Copy what a finished tour measured."""
    run = RunDirectory(directory / "pretraining")
    results = json.loads((directory / "pretraining" / "results.json").read_text(encoding="utf-8"))
    after = results["cloze"]["after"]
    right, total = (sum(pair[i] for pair in after.values()) for i in (0, 1))
    began, ended = (
        datetime.datetime.fromisoformat(RunDirectory(directory).manifest()[key]) for key in ("started", "finished")
    )
    whole = {"cloze_right": right, "cloze_questions": total, "tour_seconds": (ended - began).total_seconds()}
    write_json(RESULTS / "tour.json", _facts(run) | whole)


def _facts(run: RunDirectory) -> dict[str, Any]:
    """The headline numbers of a training run, and where they were measured."""
    kept = ("steps", "validation_loss", "entropy_floor", "above_floor", "tokens", "seconds", "parameters", "device")
    manifest = run.manifest()
    environment = {key: manifest[key] for key in manifest if key not in ("kind", "status", "resumed")}
    return {key: run.summary()[key] for key in kept} | {"measured": _today(), "environment": environment}


def record_solution(directories: Sequence[Path]) -> None:
    """Copy what `cs336 scaling solve` predicted and found, with one seed or several; the first seed's intervals."""
    found = json.loads((directories[0] / PREDICTION).read_text(encoding="utf-8"))
    records = [json.loads((directory / TARGET_RUN).read_text(encoding="utf-8")) for directory in directories]
    if len({record["id"] for record in records}) < len(records) or len({record["tokens"] for record in records}) > 1:
        raise SystemExit("the folders must hold the same target with different seeds; see `cs336 scaling solve --seed`")
    queries = json.loads((directories[0] / QUERIES).read_text(encoding="utf-8"))
    kept = {
        "fit_from": found["fitted_from"], "fit_until": max(answer["budget"] for answer in queries["profiles"]),
        "budget": found["spec"]["budget"], "predicted": found["loss"]["value"],
        "noise": [found["loss"][end] for end in ("low", "high")],
        "widened": [found["widened"][end] for end in ("low", "high")],
        "real": {record["training"]["seed"]: record["loss"] for record in records}, "law": found["law"],
        "held_out": found["held_out"], "tokens": records[0]["tokens"],
        "seconds": [record["seconds"] for record in records],
    }  # fmt: skip
    write_json(RESULTS / "scaling_solution.json", kept | {"measured": _today(), "environment": records[0]["machine"]})


def _today() -> str:
    return datetime.date.today().isoformat()


def _load(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _tour(r: dict[str, Any]) -> str:
    share = r["cloze_right"] / r["cloze_questions"]
    return (
        f"validation loss {r['validation_loss']:.3f} nats per token, {r['above_floor']:.1%} above the floor "
        f"{r['entropy_floor']:.3f}; cloze accuracy {share:.0%} (chance 25%); {r['parameters']:,} parameters, "
        f"{r['seconds']:.0f} s of training; all six stages in {r['tour_seconds'] / 60:.1f} minutes on {r['environment']['cpu_count']} cores"
    )


def _one_hour(r: dict[str, Any]) -> str:
    return (
        f"{r['above_floor']:.1%} above the entropy floor {r['entropy_floor']:.3f} after {r['tokens'] / 1e6:.0f} M "
        f"tokens in {r['seconds'] / 60:.0f} minutes on one core"
    )


def _training_step(r: dict[str, Any]) -> str:
    ours, rival = r["rows"]["ours, blocked attention"], r["rows"]["transformers Llama, SDPA, torch AdamW"]
    return (
        f"{ours['speed_ratio_to_rival']:.2f}x the speed of transformers' Llama with SDPA and torch AdamW; "
        f"{ours['share_of_matrix_product_rate']:.0%} of the matrix product rate (the rival "
        f"{rival['share_of_matrix_product_rate']:.0%}), medians of {r['repeats']} alternating steps"
    )


def _resume(r: dict[str, Any]) -> str:
    same = f"{r['identical_runs']} of {r['runs']} runs end bit for bit as undisturbed"
    return f"{r['kills']} SIGKILLs at random moments: {same}"


def _bpe_training(r: dict[str, Any]) -> str:
    rust, hf = (r["rival_is_times_ours"][f"ours / {name}"]["wall_s"] for name in ("rustbpe", "HF tokenizers"))
    peak = {name: f"{r['rows'][name]['peak_mb']:.0f} MB" for name in ("ours", "HF tokenizers")}
    return (
        f"{rust:.1f}x the speed of rustbpe, {hf:.1f}x Hugging Face tokenizers ({r['corpus']['bytes'] / 1e6:.0f} MB of "
        f"real text, vocabulary {r['vocab_size']:,}, all cores, compiled code loaded); peak memory {peak['ours']}, "
        f"Hugging Face {peak['HF tokenizers']}"
    )


def _bpe_encoding(r: dict[str, Any]) -> str:
    faster = r["rival_is_times_ours"]
    return (
        f"{faster['tiktoken']:.1f}x tiktoken, {faster['HF tokenizers']:.1f}x Hugging Face tokenizers, one thread, cold "
        f"cache, {r['mb_per_cpu_second']['ours']:.0f} MB/s; {r['tokens']:,} ids equal"
    )


def _bpe_equivalence(r: dict[str, Any]) -> str:
    return (
        f"{r['corpora']:,} random corpora: compiled, plain and brute-force trainers agree; {r['strings']:,} random strings: the "
        "ids of tiktoken, and decoded to the same text"
    )


def _generation(r: dict[str, Any]) -> str:
    ours = ", ".join(
        f"{row['speed_ratio_to_transformers']:.2f}x ({name.removeprefix('ours').strip(', ') or 'plain'})"
        for name, row in r["rows"].items()
        if name.startswith("ours")
    )
    return f"{ours} the speed of transformers' generate, batch 4, TinyStories shape, 2 threads, the same tokens"


def _inference(r: dict[str, Any]) -> str:
    one, four = (r[f"batch {batch}"] for batch in (1, 4))
    theirs = (case["speed_ratio_to_transformers"]["wall_s"] for case in (one, four))
    int8 = (case["int8_speed_ratio_to_float32"]["wall_s"] for case in (one, four))
    requests = r["staggered requests"]
    times = {t["batch"]: t for t in r["times"]["float32"]}
    return (
        "{:.2f}x and {:.2f}x transformers' generate at batch 1 and 4, int8 {:.2f}x and {:.2f}x our float32; ".format(
            *theirs, *int8
        )
        + f"{requests['requests']} staggered requests {requests['speed_ratio']['wall_s']:.2f}x one by one; batch 1: "
        f"first token {times[1]['first_token_ms']:.1f} ms, then {times[1]['token_ms']:.1f} ms each, "
        f"{times[1]['bandwidth_utilisation']:.0%} of the bandwidth; {r['threads']} threads"
    )


def _packing(r: dict[str, Any]) -> str:
    waste, times = r["waste"]["lognormal"]["ours, buffer 1000"]["waste"], r["microseconds_per_placement"]
    few, many = times[0], times[-1]
    return (
        f"best-fit cuts off {waste:.1%} at T = 2048 (nanochat published 34.6%; lengths drawn to match its floor); a "
        f"placement takes {few['index_us']:.0f} us among {few['buffer']} documents, {many['index_us']:.0f} us among "
        f"{many['buffer']:,}"
    )


def _chunked_loss(r: dict[str, Any]) -> str:
    rows = r["rows"]
    best = max((name for name in rows if "chunk" in name), key=lambda name: rows[name]["speed_ratio_to_torch"])
    return (
        f"{rows[best]['speed_ratio_to_torch']:.2f}x the speed of torch's linear and cross_entropy in "
        f"{rows[best]['peak_mb']:.0f} MB instead of {rows['torch linear + cross_entropy']['peak_mb']:.0f} MB ({best})"
    )


def _minhash(r: dict[str, Any]) -> str:
    speed = r["speed"]
    faster = speed["times_as_fast"]
    variances = [row["multiply"]["variance_over_theory"] for row in r["estimates"]]
    return (
        f"{faster['ours / datatrove']:.0f}x datatrove and {faster['ours / datasketch']:.1f}x datasketch's fastest update, "
        f"which gets its shingles ready made; {speed['mb_per_cpu_second']['ours']:.0f} MB of text per CPU second; variance "
        f"{min(variances):.2f} to {max(variances):.2f} of theory's"
    )


def _dedup_million(r: dict[str, Any]) -> str:
    return (
        f"{r['documents']:,} documents ({r['megabytes']:.0f} MB) in {r['cpu_s']:.0f} s of CPU ({r['wall_s']:.0f} s with "
        f"{r['processes']} processes), {r['peak_rss_mb']:,} MB peak over all; recall {r['recall']:.2%}, precision "
        f"{r['precision']:.2%} against planted truth"
    )


def _ddp_overlap(r: dict[str, Any]) -> str:
    return (
        f"{r['hidden_share']:.0%} of all-reduce time hidden behind backward ({r['buckets']} buckets, 2 gloo processes, "
        f"network slowed to {r['bandwidth_bytes_per_s'] / 1e6:.0f} MB/s; median of {r['rounds']} rounds)"
    )


def _parallel_repeats(r: dict[str, Any]) -> str:
    return f"{r['repeats']} runs of the DDP, sharded optimizer and FSDP suites: {r['failed']} failed, {r['hung']} hung"


def _kernels(r: dict[str, Any]) -> str:
    kernels = r["kernels"]
    spilled, cores = (sum(k[name] for k in kernels) for name in ("spilled_bytes", "tensor_core_instructions"))
    return (
        f"{len(kernels)} kernels compiled ahead of time for compute capability {r['capability'] / 10:.1f}: {spilled} bytes "
        f"spilled, {sum(bool(k['problems']) for k in kernels)} with problems, {cores} tensor-core instructions in those that multiply"
    )


def _service(r: dict[str, Any]) -> str:
    return (
        f"{r['submits_per_s']:.0f} submissions/s and {r['reads_per_s']:.0f} status reads/s on SQLite with the load beside it; "
        f"{r['overdrafts']} overdrafts in {r['attempts']:,} concurrent attempts"
    )


def _service_kills(r: dict[str, Any]) -> str:
    return f"{r['kills']} SIGKILLs of service and workers, {r['submitted']} jobs: {len(r['problems'])} lost or charged twice"


def _scaling(r: dict[str, Any]) -> str:
    real = list(r["real"].values())
    inside = sum(r["noise"][0] <= loss <= r["noise"][1] for loss in real)
    return (
        f"fitted to runs of {r['fit_from']:.0e} to {r['fit_until']:.0e} FLOPs, a run of {r['budget']:.0e} predicted at "
        f"{r['predicted']:.3f} (90% interval {r['noise'][0]:.3f} to {r['noise'][1]:.3f}); trained with {len(real)} seeds to "
        f"{', '.join(f'{loss:.3f}' for loss in real)}: {r['predicted'] * len(real) / sum(real) - 1:+.1%} off their mean, "
        f"{inside} of {len(real)} in the interval"
    )


def _scaling_fits(r: dict[str, Any]) -> str:
    told = []
    for name in (name for name in r if name.startswith("coverage")):
        shares = [share for quantity, share in r[name].items() if quantity != "designs"]
        told.append(f"{min(shares):.0%} to {max(shares):.0%} of {r[name]['designs']} designs ({name.split(', ')[1]})")
    best = r["optimum"]
    return (
        f"global optimum on {best['solved']} of {best['surfaces']} random surfaces; 90% intervals of the law's numbers and "
        f"predictions hold the truth in {' and '.join(told)}"
    )


def _alignment(r: dict[str, Any]) -> str:
    shares = {
        name: ", ".join(f"{run['phases'][name]['right'] / run['phases'][name]['questions']:.0%}" for run in r["runs"])
        for name in ("sft", "dpo", "grpo", "control")
    }
    above = sum(run["grpo_above_sft"] for run in r["runs"])
    return (
        f"held-out accuracy of {len(r['runs'])} seeds: SFT {shares['sft']}; DPO {shares['dpo']}; GRPO from SFT {shares['grpo']}; "
        f"with a coin for a reward {shares['control']}. GRPO's 95% interval above SFT's in {above} of {len(r['runs'])}; "
        f"{max(run['seconds'] for run in r['runs']):.0f} s per seed at most"
    )


def _grpo(r: dict[str, Any]) -> str:
    update = r["update, cs336"]["tokens_per_second"] / r["update, plain loop"]["tokens_per_second"]
    return (
        f"{r['times_as_fast']['tokens_per_second']:.1f}x the response tokens per second of TRL's GRPOTrainer; an update "
        f"{update:.2f}x the speed of a plain PyTorch loop"
    )


def _quality_rules(r: dict[str, Any]) -> str:
    rate = r["megabytes_per_second"]
    return (
        f"Gopher, C4 and FineWeb rules {rate['ours']} MB/s of one core, datatrove {rate['datatrove']} ({r['ratio']}x); "
        f"same verdicts on {r['same_verdicts']:.2%} of {r['pages']} pages"
    )


def _data_pipeline(r: dict[str, Any]) -> str:
    texts = []
    if "same" in r:
        times = r["same"]["times_as_fast"]
        texts.append(
            f"{r['same']['pages_per_cpu_second']['ours']:,.0f} pages per CPU second, {times['ours']:.1f}x datatrove with "
            f"the same extractor ({times['ours, library']:.1f}x if language is asked through fastText's library)"
        )
    if "trafilatura" in r:
        texts.append(f"{r['trafilatura']['times_as_fast']['ours']:.1f}x datatrove with trafilatura, its own")
    if "workers" in r:
        texts.append(f"{r['workers']['speedup_2_workers']:.2f}x with two workers")
    return "; ".join(texts)


TABLE = (  # what, result file, text, by which command
    ("the default tour", "tour", _tour, "make tour"),
    ("the one-hour run", "stories_one_hour", _one_hour, "configs/stories-one-hour.toml"),
    ("training step, TinyStories shape, 2 threads", "training_step", _training_step, "bench_training_step.py"),
    ("resume", "resume_after_kill", _resume, "bench_resume_after_kill.py"),
    ("BPE training", "bpe_training", _bpe_training, "bench_bpe_training.py"),
    ("BPE encoding", "bpe_encoding", _bpe_encoding, "bench_bpe_encoding.py"),
    ("BPE equivalence", "bpe_equivalence", _bpe_equivalence, "check_bpe_equivalence.py"),
    ("cached generation", "generation", _generation, "bench_generation.py"),
    ("MinHash signatures", "minhash", _minhash, "bench_minhash.py"),
    ("near duplicates in files", "dedup_million", _dedup_million, "bench_dedup_million.py"),
    ("inference engine, TinyStories shape", "inference", _inference, "bench_inference.py"),
    ("data pipeline", "data_pipeline", _data_pipeline, "bench_data_pipeline.py"),
    ("packing", "packing", _packing, "bench_packing.py"),
    ("LM-head loss in chunks", "chunked_loss", _chunked_loss, "bench_chunked_loss.py"),
    ("gradients sent during backward", "ddp_overlap", _ddp_overlap, "bench_ddp_overlap.py"),
    ("parallel training, repeated", "parallel_repeats", _parallel_repeats, "check_parallel_repeats.py"),
    ("Triton kernels without a GPU", "kernels_sm90", _kernels, "check_kernels_compile.py"),
    ("scaling law", "scaling_solution", _scaling, "cs336 scaling solve"),
    ("fits of the scaling law", "scaling_fits", _scaling_fits, "bench_coverage.py"),
    ("training service", "service", _service, "bench_service.py"),
    ("training service, killed", "service_kills", _service_kills, "bench_service_kills.py"),
    ("reinforcement learning on word problems", "alignment", _alignment, "bench_alignment.py"),
    ("a GRPO step", "grpo", _grpo, "bench_grpo.py"),
    ("quality rules", "quality_rules", _quality_rules, "bench_quality_rules.py"),
)


def rows() -> list[tuple[str, str, str, str]]:
    """(what, measured, how, when) for each result file that is there."""
    table = []
    for what, name, text, command in TABLE:
        result = _load(f"{name}.json")
        if result is not None:
            by = f"benchmarks/{command}" if command.endswith(".py") else command
            table.append((what, text(result), f"`{by}`", result.get("measured", "")))
    return table


def main() -> None:
    """Replace the section between the marks in README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tour", type=Path, help="directory of a finished tour to take up")
    parser.add_argument("--one-hour", type=Path, help="directory of a finished run of configs/stories-one-hour.toml")
    parser.add_argument("--solution", type=Path, nargs="+", help="finished `cs336 scaling solve` folders, one per seed")
    arguments = parser.parse_args()
    if arguments.tour:
        record_tour(arguments.tour)
    if arguments.one_hour:
        write_json(RESULTS / "stories_one_hour.json", _facts(RunDirectory(arguments.one_hour)))
    if arguments.solution:
        record_solution(arguments.solution)
    lines = ["", "| what | measured | by | on |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    text = README.read_text(encoding="utf-8")
    start, end = text.index("\n", text.index(BEGIN)), text.index(END)
    with atomic_write(README, "w") as file:
        file.write(text[:start] + "\n".join(lines) + "\n" + text[end:])


if __name__ == "__main__":
    main()

"""The tables of benchmark.py: medians, and ratios to (b) taken pair by pair; what has failed is left out."""

import statistics
from typing import Any

from variants import OURS, PEERS

INFERENCE = {
    "engine": "predict.py's engine",
    "pipeline": "pipeline(batch_size=16)",
    "onnx": "ONNX",
    "onnx_int8": "ONNX int8",
}


def print_shape(shape: str, machine: str, results: dict[str, Any]) -> None:
    print(f"\n{shape}: {machine}; medians of {max(map(len, results['training'].values()))}")
    print_training(results)
    for name, show in (("floor", print_floor), ("inference", print_inference), ("sweep", print_sweep)):
        if not has_failed(results[name]):
            show(results)


def has_failed(figures: dict[str, Any]) -> bool:
    return "error" in figures


def ended(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [run for run in runs if not has_failed(run)]


def print_training(results: dict[str, Any]) -> None:
    training = {variant: runs for variant, runs in results["training"].items() if ended(runs)}
    total = f"{results['epochs']} epochs s"
    print(f"    {'epoch s':>9}{total:>12}{'(b) / it':>10}{'peak MB':>9}{'ckpt MB':>9}{'accuracy':>10}")
    for variant, runs in training.items():
        scaled = "*" if variant in "abcd" and results["scaled_from_steps"] else " "
        names = ("epoch_s", "total_s", "peak_bytes", "checkpoint_bytes")
        epoch, seconds, peak, size = (statistics.median(run[name] for run in ended(runs)) for name in names)
        ratio = ratio_to_b(training, variant, "total_s")
        accuracies = [run["accuracy"] for run in ended(runs) if run["accuracy"] is not None]
        accuracy = f"{statistics.median(accuracies):.4f}" if accuracies else "-"
        print(
            f"({variant}) {epoch:>9.2f}{seconds:>11.1f}{scaled}{ratio:>10}{peak / 1e6:>9.0f}{size / 1e6:>9.1f}{accuracy:>10}"
        )
    for variant, runs in training.items():
        missing = len(runs) - len(ended(runs))
        print(f"({variant}) {({**PEERS, **OURS})[variant]}{f'; {missing} of its runs failed' if missing else ''}")
    if results["scaled_from_steps"]:
        print(f"  * scaled from {results['scaled_from_steps']} steps ((c): from one epoch) and one evaluation")
    if {"b", "e"} <= set(training):
        print(f"One more epoch with its evaluation: (b) / (e) = {ratio_to_b(training, 'e', 'extra_epoch_s')}")


def ratio_to_b(training: dict[str, list[dict[str, Any]]], variant: str, name: str) -> str:
    """Return the median over the repeats in which both ran of (b)'s figure by the variant's."""
    pairs = zip(training.get("b", []), training[variant], strict=False)
    ratios = [b[name] / mine[name] for b, mine in pairs if not has_failed(b) and not has_failed(mine)]
    return f"{statistics.median(ratios):.1f}" if ratios else "-"


def print_floor(results: dict[str, Any]) -> None:
    floor, runs = results["floor"], ended(results["training"].get("e", []))
    print(
        f"Floor of (e): {floor['total_s']:.1f} s: trunk {floor['trunk_s']:.1f} s at {floor['matmul_flops'] / 1e9:.0f} GFLOP/s,"
        f" an epoch {floor['epoch_s']:.2f} s at {floor['bandwidth_bytes'] / 1e9:.0f} GB/s"
    )
    if runs:
        print(f"  (e) takes {statistics.median(run['total_s'] for run in runs) / floor['total_s']:.2f} times its floor")


def print_inference(results: dict[str, Any]) -> None:
    speeds = results["inference"].items()
    words = [f"{INFERENCE[name]} {speed['texts_s']:.1f} ({speed['ratio']:.2f})" for name, speed in speeds]
    print(f"Inference, texts/s (times pipeline's): {', '.join(words)}")


def print_sweep(results: dict[str, Any]) -> None:
    sweep = results["sweep"]
    first, search = sweep["first_s"], sweep["halving_s"]
    complete = search + sweep["seeds_s"]
    print(
        f"{sweep['runs']} learning rates on one cache: {sweep['sweep_s']:.1f} s, the first {first:.1f} s,"
        f" another {sweep['next_s']:.1f} s: {sweep['sweep_s'] / first:.2f} single runs"
    )
    print(
        f"The same by sweep.py, which stops the weak ones early: {search:.1f} s, the epochs of"
        f" {sweep['halving_runs']:.1f} runs: {search / first:.2f} single runs;\n  with {sweep['seeds']} other seeds of the best,"
        f" its default: {complete:.1f} s: {complete / first:.2f} single runs"
    )

"""Time the recipe against transformers alone: one command, one table.

gpt2-nano end to end, and GPT-2 small's shape (random weights; the tokenizer is a folder with vocab.json and merges.txt):
    python scripts/benchmark/benchmark.py --train_file SMSSpamCollection --shapes nano
    python scripts/benchmark/benchmark.py --train_file SMSSpamCollection --shapes small --tokenizer gpt2_tokenizer --json small.json

A look at whether all of it runs, in under 3 minutes:
    python scripts/benchmark/benchmark.py --train_file data/sms_spam.tsv --quick

Every variant is run in a process of its own, the variants in turn, `--repeats` times; the table gives medians, and
ratios to (b) taken pair by pair. Texts, splits, batch size and epochs are those of recipe/configs/sms_spam_book.yaml.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measurements import OURS, PEERS, make_small
from tqdm.auto import tqdm

from recipe.atomic import write_json
from recipe.errors import OneLineParser, RecipeError, run_script

NANO = "recipe/assets/gpt2-nano"
INFERENCE = {
    "engine": "predict.py's engine",
    "pipeline": "pipeline(batch_size=16)",
    "onnx": "ONNX",
    "onnx_int8": "ONNX int8",
}


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--train_file", required=True, help="The SMS Spam Collection, or any file that training takes.")
    parser.add_argument("--config", default="recipe/configs/sms_spam_book.yaml", help="The protocol.")
    parser.add_argument("--shapes", nargs="+", choices=("nano", "small"), default=["nano"])
    parser.add_argument("--tokenizer", help="For the small shape: a folder with GPT-2's vocab.json and merges.txt.")
    parser.add_argument("--variants", nargs="+", choices=(*PEERS, *OURS), default=[*PEERS, *OURS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--peer_steps", type=int, default=24, help="At the small shape, steps of a, b, c, d that are timed."
    )
    parser.add_argument("--use_cpu", action="store_true", help="Leave a GPU aside.")
    parser.add_argument("--json", type=Path, help="Also write every figure here.")
    parser.add_argument("--quick", action="store_true", help="Few texts, few steps, one repeat, gpt2-nano.")
    args = parser.parse_args()
    if not Path(args.train_file).is_file():
        raise RecipeError(f"train_file {args.train_file} does not exist: give the data to time on")
    if (
        "small" in args.shapes
        and not args.quick
        and not (args.tokenizer and Path(args.tokenizer, "vocab.json").is_file())
    ):
        raise RecipeError("the small shape needs --tokenizer DIR, a folder with GPT-2's vocab.json and merges.txt")
    if args.peer_steps < 5 or args.repeats < 1:
        raise RecipeError("peer_steps must be at least 5, repeats at least 1")
    if args.json and args.json.exists():
        raise RecipeError(f"json {args.json} exists: give another file")
    figures = {shape: measure_shape(shape, args) for shape in (["nano"] if args.quick else args.shapes)}
    for shape, results in figures.items():
        print_shape(shape, results)
    if args.json:
        write_json(args.json, {"machine": machine(), **figures})


def measure_shape(shape: str, args: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        if shape == "small":
            make_small(folder, args.tokenizer)
        job = {
            "model": folder if shape == "small" else NANO,
            "learning_rate": 5e-5 if shape == "small" else 1e-3,
            "accuracy": shape == "nano",
            "config": args.config,
            "train_file": args.train_file,
            "epochs": 2 if args.quick else 5,
            "use_cpu": args.use_cpu,
            "fields": ["--max_train_samples", "128", "--max_eval_samples", "32"] if args.quick else [],
        }
        repeats = 1 if args.quick else args.repeats
        steps = 5 if args.quick else args.peer_steps
        plan = [(repeat, variant) for repeat in range(repeats) for variant in args.variants]
        training: dict[str, list[dict]] = {variant: [] for variant in args.variants}
        for _, variant in (bar := tqdm(plan, desc=f"{shape}: training", unit=" runs")):
            bar.set_postfix_str(f"({variant})")
            scaled = variant in "abcd" and (shape == "small" or args.quick)
            training[variant].append(
                run_job({**job, "measure": "training", "variant": variant, "steps": steps if scaled else 0})
            )
        texts = 64 if args.quick else 150 if shape == "small" else 1000
        return {
            "training": training,
            "scaled_from_steps": steps if shape == "small" or args.quick else None,
            "epochs": job["epochs"],
            "floor": run_job({**job, "measure": "floor"}),
            "inference": run_job(
                {**job, "measure": "inference", "texts": texts, "batch_size": 16, "repeats": max(repeats, 2)}
            ),
            "sweep": run_job({**job, "measure": "sweep", "runs": 2 if args.quick else 10}),
            "sweep_runs": 2 if args.quick else 10,
        }


def run_job(job: dict[str, Any]) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [sys.executable, Path(__file__).with_name("measurements.py"), json.dumps(job)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    )
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if result.returncode or not lines:
        reason = (result.stderr.strip().splitlines() or ["no result"])[-1]
        raise RecipeError(f"{job['measure']} {job.get('variant', '')} failed: {reason}")
    return json.loads(lines[-1].removeprefix("RESULT "))


def print_shape(shape: str, results: dict[str, Any]) -> None:
    training, epochs, floor = results["training"], results["epochs"], results["floor"]
    print(f"\n{shape}: {machine()}; medians of {len(next(iter(training.values())))}")
    total = f"{epochs} epochs s"
    print(f"    {'epoch s':>9}{total:>12}{'(b) / it':>10}{'peak MB':>9}{'ckpt MB':>9}{'accuracy':>10}")
    for variant, runs in training.items():
        scaled = "*" if variant in "abcd" and results["scaled_from_steps"] else " "
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0] if name != "accuracy"}
        ratio = ratio_to_b(training, variant, "total_s")
        accuracies = [run["accuracy"] for run in runs if run["accuracy"] is not None]
        accuracy = f"{statistics.median(accuracies):.4f}" if accuracies else "-"
        print(
            f"({variant}) {middle['epoch_s']:>9.2f}{middle['total_s']:>11.1f}{scaled}{ratio:>10}"
            f"{middle['peak_bytes'] / 1e6:>9.0f}{middle['checkpoint_bytes'] / 1e6:>9.1f}{accuracy:>10}"
        )
    for variant in training:
        print(f"({variant}) {({**PEERS, **OURS})[variant]}")
    if results["scaled_from_steps"]:
        print(f"  * scaled from {results['scaled_from_steps']} steps ((c): from one epoch) and one evaluation")
    if {"b", "e"} <= set(training):
        print(f"One more epoch with its evaluation: (b) / (e) = {ratio_to_b(training, 'e', 'extra_epoch_s')}")
    print(
        f"Floor of (e): {floor['total_s']:.1f} s: trunk {floor['trunk_s']:.1f} s at {floor['matmul_flops'] / 1e9:.0f} GFLOP/s,"
        f" an epoch {floor['epoch_s']:.2f} s at {floor['bandwidth_bytes'] / 1e9:.0f} GB/s"
    )
    if "e" in training:
        print(
            f"  (e) takes {statistics.median(run['total_s'] for run in training['e']) / floor['total_s']:.2f} times its floor"
        )
    inference, sweep = results["inference"], results["sweep"]
    speeds = [f"{INFERENCE[name]} {speed['texts_s']:.1f} ({speed['ratio']:.2f})" for name, speed in inference.items()]
    print(f"Inference, texts/s (times pipeline's): {', '.join(speeds)}")
    print(
        f"{results['sweep_runs']} learning rates on one cache: {sweep['sweep_s']:.1f} s, the first {sweep['first_s']:.1f} s,"
        f" another {sweep['next_s']:.1f} s: {sweep['sweep_s'] / sweep['first_s']:.2f} single runs"
    )
    print(
        f"The same by sweep.py, which stops the weak ones early: {sweep['halving_s']:.1f} s, the epochs of"
        f" {sweep['halving_runs']:.1f} runs: {sweep['halving_s'] / sweep['first_s']:.2f} single runs"
    )


def ratio_to_b(training: dict[str, list[dict]], variant: str, name: str) -> str:
    if "b" not in training:
        return "-"
    pairs = zip(training["b"], training[variant], strict=True)
    return f"{statistics.median(b[name] / mine[name] for b, mine in pairs):.1f}"


def machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    return f"{os.cpu_count()} cores, {torch.cpu.get_capabilities().get('cpu_name', platform.processor())}, torch {torch.__version__}"


if __name__ == "__main__":
    run_script(main)

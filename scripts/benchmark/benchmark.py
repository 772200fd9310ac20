"""Time the recipe against transformers alone: one command, one table.

gpt2-nano end to end, and GPT-2 small's shape (random weights; the tokenizer is a folder with vocab.json and merges.txt):
    python scripts/benchmark/benchmark.py --train_file SMSSpamCollection --shapes nano
    python scripts/benchmark/benchmark.py --train_file SMSSpamCollection --shapes small --tokenizer gpt2_tokenizer --json small.json

A look at whether all of it runs, in under 3 minutes:
    python scripts/benchmark/benchmark.py --train_file data/sms_spam.tsv --quick

Every variant is run in a process of its own, the variants in turn, `--repeats` times; the table gives medians, and
ratios to (b) taken pair by pair. Texts, splits, batch size and epochs are those of recipe/configs/sms_spam_book.yaml.
A measurement that fails is named, and left out of the table; the others go on. `--json` is written after each.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from results_table import has_failed, print_shape
from tqdm.auto import tqdm
from variants import OURS, PEERS

from recipe.atomic import write_json
from recipe.errors import OneLineParser, RecipeError, run_script, shorten

NANO = "recipe/assets/gpt2-nano"


def parse_options() -> argparse.Namespace:
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
    if args.quick:
        args.shapes, args.repeats, args.peer_steps = ["nano"], 1, 5
    if "small" in args.shapes and not (args.tokenizer and Path(args.tokenizer, "vocab.json").is_file()):
        raise RecipeError("the small shape needs --tokenizer DIR, a folder with GPT-2's vocab.json and merges.txt")
    if args.peer_steps < 5 or args.repeats < 1:
        raise RecipeError("peer_steps must be at least 5, repeats at least 1")
    if args.json and args.json.exists():
        raise RecipeError(f"json {args.json} exists: give another file")
    return args


def plan_shape(shape: str, args: argparse.Namespace, model: str) -> list[dict[str, Any]]:
    """Return the jobs of a shape in the order in which they run, each of which measures one thing."""
    small = shape == "small"
    job = {
        "model": model,
        "learning_rate": 5e-5 if small else 1e-3,
        "accuracy": not small,
        "config": args.config,
        "train_file": args.train_file,
        "epochs": 2 if args.quick else 5,
        "use_cpu": args.use_cpu,
        "fields": ["--max_train_samples", "128", "--max_eval_samples", "32"] if args.quick else [],
    }
    steps = args.peer_steps if small or args.quick else 0
    training = [
        {**job, "measure": "training", "variant": variant, "steps": steps if variant in "abcd" else 0}
        for _ in range(args.repeats)
        for variant in dict.fromkeys(args.variants)
    ]
    texts = 64 if args.quick else 150 if small else 1000
    inference = {"measure": "inference", "texts": texts, "batch_size": 16, "repeats": max(args.repeats, 2)}
    sweep = {"measure": "sweep", "runs": 2 if args.quick else 10}
    return [*training, {**job, "measure": "floor"}, {**job, **inference}, {**job, **sweep}]


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a fresh process.

    Returns:
        Its figures, or its `error`, which is printed too: the other jobs go on.
    """
    command = [sys.executable, Path(__file__).with_name("measurements.py"), json.dumps(job)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("RESULT ")]
    if lines and not result.returncode:
        return json.loads(lines[-1].removeprefix("RESULT "))
    reason = shorten((result.stderr.strip().splitlines() or ["no result"])[-1], 300)
    tqdm.write(f"{name_of(job)} failed with exit code {result.returncode}: {reason}", file=sys.stderr)
    return {"error": reason, "exit_code": result.returncode}


def name_of(job: dict[str, Any]) -> str:
    return f"{job['measure']} ({job['variant']})" if "variant" in job else job["measure"]


def measure_shape(shape: str, args: argparse.Namespace, figures: dict[str, Any]) -> int:
    """Run the jobs of a shape, and add to the figures, which are written after each; return how many jobs failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        if shape == "small":
            from protocol import make_small

            make_small(folder, args.tokenizer)
        jobs = plan_shape(shape, args, folder if shape == "small" else NANO)
        steps = max(job.get("steps", 0) for job in jobs) or None
        results = figures[shape] = {"epochs": jobs[0]["epochs"], "scaled_from_steps": steps, "training": {}}
        for job in (bar := tqdm(jobs, desc=shape, unit=" jobs")):
            bar.set_postfix_str(name_of(job))
            measured = run_job(job)
            if "variant" in job:
                results["training"].setdefault(job["variant"], []).append(measured)
            else:
                results[job["measure"]] = measured
            failed += has_failed(measured)
            if args.json:
                write_json(args.json, figures)
    return failed


def machine(use_cpu: bool) -> str:
    """Name what the figures come from."""
    import torch

    if torch.cuda.is_available() and not use_cpu:
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    cpu = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    return f"{os.cpu_count()} cores, {cpu}, torch {torch.__version__}"


def main() -> None:
    args, failed = parse_options(), 0
    figures: dict[str, Any] = {"machine": machine(args.use_cpu)}
    for shape in dict.fromkeys(args.shapes):
        failed += measure_shape(shape, args, figures)
        print_shape(shape, figures["machine"], figures[shape])
    if failed:
        raise RecipeError(f"measurements that failed: {failed}; the lines above say why, and the tables leave them out")


if __name__ == "__main__":
    run_script(main)

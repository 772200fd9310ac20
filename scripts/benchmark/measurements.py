"""What scripts/benchmark/benchmark.py measures, one measurement a process: `python -m measurements '{"measure": ...}'`."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)

from recipe.config import parse_arguments
from recipe.data.tokenization import tokenize_split
from recipe.inference.text_classifier import TextClassifier
from recipe.model.export import to_stock
from recipe.model.freezing import freeze_except, last_blocks
from recipe.training.cache_policy import native_bfloat16
from recipe.training.preparing import Run, prepare_run
from recipe.training.run import make_trainer

PEERS = {
    "a": "Trainer + GPT2ForSequenceClassification, padded to the longest text",
    "b": "the same, padded to the longest of each batch",
    "c": "the same, tuned: grouped by length, large evaluation batches, bf16 where native",
}
OURS = {"d": "our plain path", "e": "our fast path, float32", "f": "our fast path, bfloat16"}
WARMUP_STEPS = 2


class StepClock(TrainerCallback):
    """Seconds from the end of a step to the end of the next, fetching its batch included; evaluation is left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = now


def make_small(folder: str, tokenizer: str) -> None:
    """GPT-2 small's shape with random weights, and the tokenizer whose vocab.json and merges.txt are given."""
    torch.manual_seed(0)
    dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    GPT2LMHeadModel(GPT2Config(**dropouts)).save_pretrained(folder)
    files = {"vocab": f"{tokenizer}/vocab.json", "merges": f"{tokenizer}/merges.txt"}
    GPT2Tokenizer(**files).save_pretrained(folder)


def arguments_of(job: dict[str, Any], output_dir: str, *fields: str) -> tuple:
    """The book's protocol: batches of 8, 5 epochs, an evaluation after each; nothing saved while the clock runs."""
    argv = ["--config", job["config"], "--model_name_or_path", job["model"], "--train_file", job["train_file"]]
    argv += ["--learning_rate", str(job["learning_rate"]), "--num_train_epochs", str(job["epochs"])]
    argv += [
        "--output_dir",
        output_dir,
        "--save_strategy",
        "no",
        "--disable_tqdm",
        "true",
        "--use_cpu",
        str(job["use_cpu"]),
    ]
    return parse_arguments([*argv, *job["fields"], *fields])


def peer_trainer(variant: str, run: Run, training_args: TrainingArguments, model_name: str) -> Trainer:
    """transformers alone: its model, its Trainer, the same name filter, texts and order of labels."""
    splits = run.splits
    model = GPT2ForSequenceClassification.from_pretrained(
        model_name, num_labels=len(splits.label_names), pad_token_id=run.tokenizer.pad_token_id, dtype=torch.float32
    )
    freeze_except(model, last_blocks(model.config, 1))
    train = tokenize_split(splits.train, run.tokenizer, "train").rows
    validation = tokenize_split(splits.validation, run.tokenizer, "validation").rows
    collator = DataCollatorWithPadding(run.tokenizer)
    if variant == "a":
        longest = max(max(train["length"]), max(validation["length"]))
        collator = DataCollatorWithPadding(run.tokenizer, padding="max_length", max_length=longest)
    if variant == "c":
        training_args.train_sampling_strategy = "group_by_length"
        training_args.per_device_eval_batch_size = 32
    return Trainer(
        model, training_args, data_collator=collator, train_dataset=train, eval_dataset=validation, processing_class=run.tokenizer
    )  # fmt: skip


def measure_training(job: dict[str, Any]) -> dict[str, float | None]:
    """One variant: seconds of preparation, of an epoch's steps, of an evaluation, and of the whole; bytes; accuracy.

    With `steps` given, only so many are run, and the epoch and the whole are scaled from their mean.
    """
    variant, steps = job["variant"], job["steps"]
    native = native_bfloat16(torch.device("cpu" if job["use_cpu"] or not torch.cuda.is_available() else "cuda"))
    with tempfile.TemporaryDirectory() as folder:
        fields = ["--max_steps", str(steps), "--eval_strategy", "no"] if steps else []
        fields += ["--load_best_model_at_end", "false"]
        if variant == "f" or (variant == "c" and native):
            fields += ["--bf16", "true"]
        fields += ["--feature_cache_dir", f"{folder}/cache", "--feature_cache", "on" if variant in "ef" else "off"]
        fields += ["--trunk_dtype", "bfloat16" if variant == "f" else "float32"]
        arguments = arguments_of(job, f"{folder}/out", *fields)
        run = prepare_run(*arguments)
        per_epoch = len(run.splits.train) // arguments[2].per_device_train_batch_size
        if (
            steps and variant == "c"
        ):  # each group of batches starts with its longest: only a whole epoch is a fair sample
            steps = arguments[2].max_steps = per_epoch
        start = time.perf_counter()  # of tokenizing, and of the trunk where it is cached
        if variant in PEERS:
            trainer = peer_trainer(variant, run, arguments[2], job["model"])
        else:
            trainer = make_trainer(run, arguments[0], arguments[2])
        preparation = time.perf_counter() - start
        clock = StepClock()
        trainer.add_callback(clock)
        start = time.perf_counter()
        trainer.train()
        training = time.perf_counter() - start
        start = time.perf_counter()
        trainer.evaluate()
        evaluation = time.perf_counter() - start
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        trainer.save_model(f"{folder}/checkpoint")
        size = sum(path.stat().st_size for path in Path(f"{folder}/checkpoint").glob("*.safetensors"))
        accuracy = measure_accuracy(run, trainer) if job["accuracy"] and not steps else None
    epoch = statistics.fmean(clock.seconds[WARMUP_STEPS:]) * per_epoch
    total = preparation + (job["epochs"] * (epoch + evaluation) if steps else training)
    return {
        "epoch_s": epoch, "total_s": total, "extra_epoch_s": epoch + evaluation, "preparation_s": preparation,
        "peak_bytes": peak, "checkpoint_bytes": size, "accuracy": accuracy,
    }  # fmt: skip


def measure_accuracy(run: Run, trainer: Trainer) -> float:
    """Of the final model on the test split, by one path for all: the stock model through our engine."""
    peer = isinstance(trainer.model, GPT2ForSequenceClassification)
    stock = trainer.model if peer else to_stock(run.model)
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        run.tokenizer.save_pretrained(folder)
        logits = TextClassifier.from_pretrained(folder).logits(run.splits.test["text"].tolist())
    return float((logits.argmax(-1) == run.splits.test["label"].to_numpy()).mean())


def measure_sweep(job: dict[str, Any]) -> dict[str, float]:
    """Learning rates, one after another, on one cache: the first run pays for the trunk."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for i, factor in enumerate(np.geomspace(0.1, 10, job["runs"])):
            rate = str(job["learning_rate"] * factor)
            fields = ["--learning_rate", rate, "--feature_cache", "on", "--feature_cache_dir", f"{folder}/cache"]
            fields += ["--load_best_model_at_end", "false"]
            start = time.perf_counter()
            arguments = arguments_of(job, f"{folder}/{i}", *fields)
            make_trainer(prepare_run(*arguments), arguments[0], arguments[2]).train()
            seconds.append(time.perf_counter() - start)
    return {"sweep_s": sum(seconds), "first_s": seconds[0], "next_s": statistics.median(seconds[1:])}


def measure_inference(job: dict[str, Any]) -> dict[str, float]:
    """Texts a second of our engine and of pipeline(), in turn, on the same folder and texts."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepare_run(*arguments_of(job, f"{folder}/out"))
        to_stock(run.model).save_pretrained(f"{folder}/model")
        run.tokenizer.save_pretrained(f"{folder}/model")
        texts = run.splits.train["text"].tolist()[: job["texts"]]
        classifier = TextClassifier.from_pretrained(f"{folder}/model", "cpu" if job["use_cpu"] else None)
        device = -1 if job["use_cpu"] or not torch.cuda.is_available() else 0
        classify = pipeline("text-classification", f"{folder}/model", device=device)
        timings: dict[str, list[float]] = {"ours": [], "pipeline": []}
        for _ in range(job["repeats"]):
            timings["ours"].append(seconds_of(lambda: classifier.logits(texts)))
            timings["pipeline"].append(
                seconds_of(lambda: classify(texts, truncation=True, batch_size=job["batch_size"]))
            )
    ours, theirs = (len(texts) / statistics.median(timings[name]) for name in ("ours", "pipeline"))
    ratios = [b / a for a, b in zip(timings["ours"], timings["pipeline"], strict=True)]
    return {"ours_texts_s": ours, "pipeline_texts_s": theirs, "ratio": statistics.median(ratios)}


def measure_floor(job: dict[str, Any]) -> dict[str, float]:
    """The least that our fast path must do on this machine, by its measured matmul rate and memory bandwidth.

    Operations: 24 d^2 a token and block in the trunk (attention's own, T d a token, left out). Bytes: a step reads the
    tail's weights forward and backward, writes their gradients and reads them for the norm, and AdamW reads four numbers
    and writes three for each: 11 passes over the tail's parameters. Copies of a text are computed once. On the CPU.
    """
    arguments = arguments_of(job, "unused", "--load_best_model_at_end", "false")
    run = prepare_run(*arguments)
    width, depth = run.model.config.n_embd, run.model.split_depth
    splits = [tokenize_split(frame, run.tokenizer, "texts").rows for frame in (run.splits.train, run.splits.validation)]
    tokens = sum(map(len, {tuple(ids) for split in splits for ids in split["input_ids"]}))
    a, b = torch.randn(4096, width), torch.randn(width, 4 * width)
    rate = 2 * 4096 * width * 4 * width / min(seconds_of(lambda: a @ b) for _ in range(10))
    source, target = torch.randn(run.report.trainable * 4), torch.empty(run.report.trainable * 4)
    bandwidth = 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source)) for _ in range(10))
    trunk = 24 * width**2 * depth * tokens / rate
    steps = len(run.splits.train) // arguments[2].per_device_train_batch_size
    epoch = steps * 11 * 4 * run.report.trainable / bandwidth
    return {
        "matmul_flops": rate,
        "bandwidth_bytes": bandwidth,
        "trunk_s": trunk,
        "epoch_s": epoch,
        "total_s": trunk + job["epochs"] * epoch,
    }


def measure_memory(job: dict[str, Any]) -> dict[str, float]:
    """Peak anonymous memory of the fast path's training: the cache is memory-mapped, so it must not grow with the data."""
    with tempfile.TemporaryDirectory() as folder:
        fields = [
            "--feature_cache",
            "on",
            "--feature_cache_dir",
            f"{folder}/cache",
            "--load_best_model_at_end",
            "false",
        ]
        arguments = arguments_of(job, f"{folder}/out", *fields)
        run = prepare_run(*arguments)
        trainer, peaks = make_trainer(run, arguments[0], arguments[2]), []

        class Watch(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                lines = Path("/proc/self/status").read_text().splitlines()
                peaks.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")))

        trainer.add_callback(Watch())
        trainer.train()
        cached = sum(path.stat().st_size for path in Path(f"{folder}/cache").rglob("*.arrow"))
    return {"texts": len(run.splits.train), "cache_bytes": cached, "rss_anon_bytes": max(peaks)}


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


MEASURES = {
    "training": measure_training,
    "sweep": measure_sweep,
    "inference": measure_inference,
    "floor": measure_floor,
    "memory": measure_memory,
}

if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print("RESULT " + json.dumps(MEASURES[task["measure"]](task)))

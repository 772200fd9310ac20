"""How long a variant trains, how much memory and disk it takes, and what it learns."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Setup, device_of, our_trainer, peer_trainer, set_up, synchronize
from transformers import Trainer, TrainerCallback
from variants import PEERS

from recipe.inference.text_classifier import TextClassifier
from recipe.model.export import to_stock
from recipe.training.trainer import RecipeTrainer
from recipe.training.trunk import has_native_bfloat16

WARMUP_STEPS = 2


class StepClock(TrainerCallback):
    """Seconds from the end of a step to the end of the next, fetching its batch included; evaluation is left out."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        synchronize(args.device)
        now = time.perf_counter()
        self.seconds.append(now - self.start)
        self.start = now


def measure_training(job: dict[str, Any]) -> dict[str, float | None]:
    """Measure one variant: seconds of preparation, of an epoch's steps, of an evaluation, of everything; bytes; accuracy.

    Preparation is tokenizing and, where it is cached, the trunk's pass. With `steps` given, only so many are run, and the epoch
    and the total are scaled from their mean. Of (c) a whole epoch is run, and all its steps count: its batches are grouped by
    length and begin with the longest, so any part of it would be no fair sample.
    """
    variant, steps = job["variant"], job["steps"]
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(job, f"{folder}/out", *fields_of(job, folder))
        if steps and variant == "c":
            setup.training_args.max_steps = setup.steps_per_epoch
        start = time.perf_counter()  # the trunk's pass included
        trainer = peer_trainer(variant, setup) if variant in PEERS else our_trainer(setup)
        clock = StepClock()
        trainer.add_callback(clock)
        trainer.train()
        training = setup.tokenizing_s + time.perf_counter() - start
        preparation = setup.tokenizing_s + clock.began - start
        start = time.perf_counter()
        trainer.evaluate()
        evaluation = time.perf_counter() - start
        peak = memory_of("VmHWM")
        trainer._save_checkpoint(trainer.model, None)
        size = sum(path.stat().st_size for path in Path(f"{folder}/out").rglob("checkpoint-*/*.safetensors"))
        accuracy = measure_accuracy(setup, trainer) if job["accuracy"] and not steps else None
    counted = clock.seconds if variant == "c" else clock.seconds[WARMUP_STEPS:]
    epoch = statistics.fmean(counted) * setup.steps_per_epoch
    total = preparation + job["epochs"] * (epoch + evaluation) if steps else training
    return {
        "epoch_s": epoch, "total_s": total, "extra_epoch_s": epoch + evaluation, "preparation_s": preparation,
        "peak_bytes": peak, "checkpoint_bytes": size, "accuracy": accuracy,
    }  # fmt: skip


def fields_of(job: dict[str, Any], folder: str) -> list[str]:
    """Return the options of train.py that a variant adds to the protocol."""
    variant, steps = job["variant"], job["steps"]
    fields = ["--max_steps", str(steps), "--eval_strategy", "no"] if steps else []
    device = device_of(job)
    if (variant == "f" and device.type == "cuda") or (variant == "c" and has_native_bfloat16(device)):
        fields += ["--bf16", "true"]  # the tail's steps are bound by memory: on a CPU, bfloat16 casts only add to them
    fields += ["--feature_cache_dir", f"{folder}/cache", "--feature_cache", "on" if variant in "ef" else "off"]
    return [*fields, "--trunk_dtype", "bfloat16" if variant == "f" else "float32"]


def measure_accuracy(setup: Setup, trainer: Trainer) -> float:
    """Return the final model's accuracy on the test split, by one path for all: the stock model through our engine."""
    stock = to_stock(trainer.model) if isinstance(trainer, RecipeTrainer) else trainer.model
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        setup.tokenizer.save_pretrained(folder)
        logits = TextClassifier.from_pretrained(folder).logits(list(setup.splits["test"]["text"]))
    return float((logits.argmax(-1) == np.array(setup.splits["test"]["label"])).mean())


def measure_memory(job: dict[str, Any]) -> dict[str, float]:
    """Measure by how much cached training makes anonymous memory grow: the cache is memory-mapped, so not by its size."""
    readings = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            readings.append(memory_of("RssAnon"))

    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(job, f"{folder}/out", "--feature_cache", "on", "--feature_cache_dir", f"{folder}/cache")
        trainer = our_trainer(setup)
        trainer.add_callback(Watch())
        before = memory_of("RssAnon")
        trainer.train()
        cached = sum(path.stat().st_size for path in Path(f"{folder}/cache").rglob("*.arrow"))
    return {"texts": len(setup.splits["train"]), "cache_bytes": cached, "growth_bytes": max(readings) - before}


def memory_of(name: str) -> int:
    """Return a figure of this process in bytes: VmHWM, the most it has held, or RssAnon, what it holds that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

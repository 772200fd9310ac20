"""The measurements of benchmark.py, one a process: `python measurements.py '{"measure": ...}'`."""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from transformers import (
    DataCollatorWithPadding,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
    set_seed,
)

from recipe.arguments import DataArguments, ModelArguments
from recipe.config import parse_arguments
from recipe.data.dataset import TextSplits, load_splits
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.evaluation.metrics import compute_metrics
from recipe.experiments.sweep import Sweep
from recipe.experiments.sweep_study import open_study, plan_trials
from recipe.inference.text_classifier import TextClassifier
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import to_stock
from recipe.model.freezing import freeze_except, last_blocks
from recipe.model.onnx_graph import OnnxModel, export_graph, quantize_int8
from recipe.training.cache_policy import has_native_bfloat16
from recipe.training.trainer import RecipeTrainer

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
        self.began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

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


@dataclass
class Setup:
    """Everything that a training of the protocol needs."""

    model_args: ModelArguments
    data_args: DataArguments
    training_args: TrainingArguments
    splits: TextSplits
    tokenizer: PreTrainedTokenizerBase
    tokenized: DatasetDict
    tokenizing_s: float
    model: GPT2LastTokenClassifier

    @property
    def trainable(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.training_args.per_device_train_batch_size


def set_up(job: dict[str, Any], output_dir: str, *fields: str) -> Setup:
    """Prepare the book's protocol: batches of 8, 5 epochs, an evaluation after each; nothing saved while the clock runs."""
    argv = ["--config", job["config"], "--model_name_or_path", job["model"], "--train_file", job["train_file"]]
    argv += ["--learning_rate", str(job["learning_rate"]), "--num_train_epochs", str(job["epochs"])]
    argv += ["--output_dir", output_dir, "--save_strategy", "no", "--load_best_model_at_end", "false"]
    argv += ["--disable_tqdm", "true", "--use_cpu", str(job["use_cpu"])]
    model_args, data_args, training_args = parse_arguments([*argv, *job["fields"], *fields])
    splits = load_splits(data_args)
    set_seed(training_args.seed)
    id2label = dict(enumerate(splits.label_names))
    model = GPT2LastTokenClassifier.from_pretrained(model_args.model_name_or_path, id2label=id2label)
    freeze_except(model, last_blocks(model.config, 1))
    tokenizer = load_tokenizer(model_args.model_name_or_path, model.config, data_args.max_length)
    start = time.perf_counter()
    tokenized = tokenize(splits, tokenizer)
    return Setup(model_args, data_args, training_args, splits, tokenizer, tokenized, time.perf_counter() - start, model)


def our_trainer(setup: Setup) -> RecipeTrainer:
    """Return the trainer of scripts/train.py."""
    return RecipeTrainer(
        setup.model,
        setup.training_args,
        train_dataset=setup.tokenized["train"],
        eval_dataset=setup.tokenized["validation"],
        processing_class=setup.tokenizer,
        compute_metrics=compute_metrics,
        feature_cache=setup.model_args.feature_cache,
        feature_cache_dir=setup.model_args.feature_cache_dir,
        trunk_dtype=setup.model_args.trunk_dtype,
    )


def peer_trainer(variant: str, setup: Setup, model_name: str) -> Trainer:
    """Return transformers alone: its model, its Trainer, the same name filter, texts and order of labels."""
    training_args, tokenizer = setup.training_args, setup.tokenizer
    model = GPT2ForSequenceClassification.from_pretrained(
        model_name,
        num_labels=len(setup.splits.label_names),
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    freeze_except(model, last_blocks(model.config, 1))
    train, validation = setup.tokenized["train"], setup.tokenized["validation"]
    collator = DataCollatorWithPadding(tokenizer)
    if variant == "a":
        longest = max(max(train["length"]), max(validation["length"]))
        collator = DataCollatorWithPadding(tokenizer, padding="max_length", max_length=longest)
    if variant == "c":
        training_args.train_sampling_strategy = "group_by_length"
        training_args.per_device_eval_batch_size = 32
    return Trainer(
        model, training_args, data_collator=collator, train_dataset=train, eval_dataset=validation, processing_class=tokenizer
    )  # fmt: skip


def measure_training(job: dict[str, Any]) -> dict[str, float | None]:
    """Measure one variant: seconds of preparation, of an epoch's steps, of an evaluation, of everything; bytes; accuracy.

    Preparation is tokenizing and, where it is cached, the trunk's pass. With `steps` given, only so many are run, and the epoch and the
    total are scaled from their mean.
    """
    variant, steps = job["variant"], job["steps"]
    native = has_native_bfloat16(torch.device("cpu" if job["use_cpu"] or not torch.cuda.is_available() else "cuda"))
    with tempfile.TemporaryDirectory() as folder:
        fields = ["--max_steps", str(steps), "--eval_strategy", "no"] if steps else []
        if variant == "f" or (variant == "c" and native):
            fields += ["--bf16", "true"]
        fields += ["--feature_cache_dir", f"{folder}/cache", "--feature_cache", "on" if variant in "ef" else "off"]
        fields += ["--trunk_dtype", "bfloat16" if variant == "f" else "float32"]
        setup = set_up(job, f"{folder}/out", *fields)
        if (
            steps and variant == "c"
        ):  # each group of batches starts with its longest: only a whole epoch is a fair sample
            steps = setup.training_args.max_steps = setup.steps_per_epoch
        trainer = peer_trainer(variant, setup, job["model"]) if variant in PEERS else our_trainer(setup)
        clock = StepClock()
        trainer.add_callback(clock)
        start = time.perf_counter()
        trainer.train()
        training = setup.tokenizing_s + time.perf_counter() - start
        preparation = setup.tokenizing_s + clock.began - start
        start = time.perf_counter()
        trainer.evaluate()
        evaluation = time.perf_counter() - start
        status = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        trainer._save_checkpoint(trainer.model, None)
        size = sum(path.stat().st_size for path in Path(f"{folder}/out").rglob("checkpoint-*/*.safetensors"))
        accuracy = measure_accuracy(setup, trainer) if job["accuracy"] and not steps else None
    epoch = statistics.fmean(clock.seconds[WARMUP_STEPS:]) * setup.steps_per_epoch
    total = preparation + job["epochs"] * (epoch + evaluation) if steps else training
    return {
        "epoch_s": epoch, "total_s": total, "extra_epoch_s": epoch + evaluation, "preparation_s": preparation,
        "peak_bytes": peak, "checkpoint_bytes": size, "accuracy": accuracy,
    }  # fmt: skip


def measure_accuracy(setup: Setup, trainer: Trainer) -> float:
    """Return the final model's accuracy on the test split, by one path for all: the stock model through our engine."""
    stock = to_stock(setup.model) if isinstance(trainer, RecipeTrainer) else trainer.model
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        setup.tokenizer.save_pretrained(folder)
        logits = TextClassifier.from_pretrained(folder).logits(list(setup.splits["test"]["text"]))
    return float((logits.argmax(-1) == np.array(setup.splits["test"]["label"])).mean())


def measure_sweep(job: dict[str, Any]) -> dict[str, float]:
    """Measure learning rates, one after another, on one cache: the first run pays for the trunk. And as sweep.py runs them.

    `halving_runs` is how many complete runs' epochs the trials of sweep.py had, which does without its final seeds here.
    """
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for i, factor in enumerate(np.geomspace(0.1, 10, job["runs"])):
            rate = str(job["learning_rate"] * factor)
            fields = ["--learning_rate", rate, "--feature_cache", "on", "--feature_cache_dir", f"{folder}/cache"]
            start = time.perf_counter()
            our_trainer(set_up(job, f"{folder}/{i}", *fields)).train()
            seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
        fields = ["--feature_cache", "on", "--feature_cache_dir", f"{folder}/halving"]
        setup = set_up(job, f"{folder}/trials", *fields)
        space = {"learning_rate": (job["learning_rate"] / 10, job["learning_rate"] * 10)}
        sweep = Sweep((setup.model_args, setup.data_args, setup.training_args), setup.splits, space, f"{folder}/trials")
        trials, plan = plan_trials(space, job["runs"], setup.training_args.seed)
        study = open_study(Path(folder, "journal"), plan, {})
        sweep.search(study, trials)
        halved = time.perf_counter() - start
        epochs = sum(trial.last_step for trial in study.trials) / sweep.max_steps
    single = {"first_s": seconds[0], "next_s": statistics.median(seconds[1:])}
    return {"sweep_s": sum(seconds), **single, "halving_s": halved, "halving_runs": epochs}


def measure_inference(job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Measure our engine, pipeline() and, on the CPU, the exported model in our engine, in turn, on the same texts.

    Each gets as many threads as torch has. Returns texts a second, and how many times those of pipeline() they are.
    """
    on_cpu = job["use_cpu"] or not torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(job, f"{folder}/out")
        to_stock(setup.model).save_pretrained(f"{folder}/model")
        setup.tokenizer.save_pretrained(f"{folder}/model")
        texts = list(setup.splits["train"]["text"])[: job["texts"]]
        classifier = TextClassifier.from_pretrained(f"{folder}/model", "cpu" if on_cpu else None)
        pipe = pipeline("text-classification", f"{folder}/model", device=-1 if on_cpu else 0)
        classify = {
            "engine": classifier.logits,
            "pipeline": lambda texts: pipe(texts, truncation=True, batch_size=job["batch_size"]),
        }
        if on_cpu:
            paths = {name: Path(folder, f"{name}.onnx") for name in ("onnx", "onnx_int8")}
            export_graph(classifier.model, setup.tokenizer.eos_token_id, paths["onnx"])
            quantize_int8(*paths.values())
            for name, path in paths.items():
                exported = OnnxModel(path, classifier.model.config)
                classify[name] = TextClassifier(exported, setup.tokenizer, "cpu").logits
        timings: dict[str, list[float]] = {name: [] for name in classify}
        for _ in range(job["repeats"]):
            for name, work in classify.items():
                timings[name].append(seconds_of(lambda work=work: work(texts)))
    ratios = {name: np.divide(timings["pipeline"], seconds) for name, seconds in timings.items()}
    return {
        name: {"texts_s": len(texts) / statistics.median(seconds), "ratio": float(np.median(ratios[name]))}
        for name, seconds in timings.items()
    }


def measure_floor(job: dict[str, Any]) -> dict[str, float]:
    """Compute the least that our fast path must do on this machine, from its matmul rate and memory bandwidth.

    Operations: 24 d^2 a token and block in the trunk (attention's own, T d a token, left out). Bytes: a step reads the
    tail's weights forward and backward, writes their gradients and reads them for the norm, and AdamW reads four numbers
    and writes three for each: 11 passes over the tail's parameters. Copies of a text are computed once. On the CPU.
    """
    setup = set_up(job, "unused")
    width, depth = setup.model.config.n_embd, setup.model.split_depth
    cached = [setup.tokenized["train"], setup.tokenized["validation"]]
    tokens = sum(map(len, {tuple(ids) for split in cached for ids in split["input_ids"]}))
    a, b = torch.randn(4096, width), torch.randn(width, 4 * width)
    rate = 2 * 4096 * width * 4 * width / min(seconds_of(lambda: a @ b) for _ in range(10))
    source, target = torch.randn(setup.trainable * 4), torch.empty(setup.trainable * 4)
    bandwidth = 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source)) for _ in range(10))
    trunk = 24 * width**2 * depth * tokens / rate
    epoch = setup.steps_per_epoch * 11 * 4 * setup.trainable / bandwidth
    return {
        "matmul_flops": rate,
        "bandwidth_bytes": bandwidth,
        "trunk_s": trunk,
        "epoch_s": epoch,
        "total_s": trunk + job["epochs"] * epoch,
    }


def measure_memory(job: dict[str, Any]) -> dict[str, float]:
    """Measure by how much cached training makes anonymous memory grow: the cache is memory-mapped, so not by its size."""
    readings = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            readings.append(anonymous_memory())

    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(job, f"{folder}/out", "--feature_cache", "on", "--feature_cache_dir", f"{folder}/cache")
        trainer = our_trainer(setup)
        trainer.add_callback(Watch())
        before = anonymous_memory()
        trainer.train()
        cached = sum(path.stat().st_size for path in Path(f"{folder}/cache").rglob("*.arrow"))
    return {"texts": len(setup.splits["train"]), "cache_bytes": cached, "growth_bytes": max(readings) - before}


def anonymous_memory() -> int:
    """Return this process's RssAnon in bytes: what it holds that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


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

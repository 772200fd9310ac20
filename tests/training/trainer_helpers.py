"""Trainers of a tiny model on three paths, transformers' own among them, and their results compared."""

import copy

import numpy as np
import torch
from conftest import tiny_model
from datasets import Dataset, DatasetDict
from transformers import (
    Trainer,
    TrainingArguments,
)

from recipe.model.freezing import freeze_except, last_blocks
from recipe.training.features import cache_features
from recipe.training.trainer import RecipeTrainer

PAD = 99


def make_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 20, size=count)
    return {
        "input_ids": [rng.integers(0, 98, size=length).tolist() for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
        "labels": rng.integers(0, 3, size=count).tolist(),
    }


TRAIN, EVAL, OTHER = (Dataset.from_dict(make_rows(count, seed)) for seed, count in enumerate((37, 21, 13)))


class RowsOfLists(torch.utils.data.Dataset):
    """A map-style dataset that is no datasets.Dataset."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(self.rows[i])


def collate(rows):
    """Pad on the right, as DataCollatorWithPadding does; module level, so that workers can be sent it."""
    longest = max(len(row["input_ids"]) for row in rows)
    pad = {"input_ids": PAD, "attention_mask": 0}
    batch = {
        name: torch.tensor([row[name] + [value] * (longest - len(row[name])) for row in rows])
        for name, value in pad.items()
    }
    return {**batch, "labels": torch.tensor([row["labels"] for row in rows])}


def frozen_model(patterns=None, **config):
    model = tiny_model(**config)
    freeze_except(model, patterns or last_blocks(model.config, 1))
    return model


def arguments(folder, **fields):
    defaults = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(str(folder), **{**defaults, **fields})


def accuracy(prediction):
    return {"accuracy": float((np.argmax(prediction.predictions, axis=-1) == prediction.label_ids).mean())}


CPU = TrainingArguments(use_cpu=True, num_train_epochs=2)
PATHS = {"trainer": Trainer, "plain": RecipeTrainer, "cached": RecipeTrainer}


def make_trainer(path, folder, model=None, trainer_class=None, arguments_=None, **keywords):
    keywords = {"data_collator": collate, "train_dataset": TRAIN, "eval_dataset": EVAL, **keywords}
    if "model_init" not in keywords:
        keywords["model"] = copy.deepcopy(model) if model is not None else frozen_model()
    if path == "cached":
        model = keywords["model"] if "model" in keywords else keywords["model_init"]()
        keywords |= cached_datasets(model, folder, keywords["train_dataset"], keywords["eval_dataset"])
    return (trainer_class or PATHS[path])(args=arguments(folder / path, **(arguments_ or {})), **keywords)


def cached_datasets(model, folder, train, evaluated):
    """The datasets of a trainer, with the column; those that cannot have it stay as they are."""
    many = evaluated if isinstance(evaluated, dict) else {"eval": evaluated}
    splits = {name: split for name, split in {"train": train, **many}.items() if isinstance(split, Dataset)}
    cached = {**many, "train": train, **cache_features(model, DatasetDict(splits), folder / "cache", args=CPU)}
    return {
        "train_dataset": cached.pop("train"),
        "eval_dataset": cached if isinstance(evaluated, dict) else cached["eval"],
    }


def is_cached(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    return "trunk_output" in batch


def results(trainer, other=OTHER):
    """Everything that a user can ask of a trained trainer: logged losses, figures, predictions."""
    trainer.train()
    history = [
        {name: value for name, value in row.items() if "loss" in name or "accuracy" in name}
        for row in trainer.state.log_history
    ]
    figures = trainer.evaluate(other, metric_key_prefix="other") if other is not None else {}
    predictions = trainer.predict(other).predictions if other is not None else np.zeros(1)
    return history, {k: v for k, v in figures.items() if "loss" in k or "accuracy" in k}, predictions


def assert_same(one, two, atol=2e-5):
    for a, b in zip(one[0], two[0], strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose(list(a.values()), list(b.values()), atol=atol, rtol=0)
    assert one[1].keys() == two[1].keys()
    np.testing.assert_allclose(list(one[1].values()), list(two[1].values()), atol=atol, rtol=0)
    np.testing.assert_allclose(one[2], two[2], atol=10 * atol, rtol=0)


def compare(folder, paths=("trainer", "plain", "cached"), **options):
    """Train on each path and compare all with the first; return the trainers."""
    trainers = {path: make_trainer(path, folder, **options) for path in paths}
    outcomes = {path: results(trainer) for path, trainer in trainers.items()}
    for path in paths[1:]:
        assert_same(outcomes[paths[0]], outcomes[path])
    if "cached" in trainers and isinstance(trainers["cached"].train_dataset, Dataset):
        assert is_cached(trainers["cached"])
    return trainers

"""Saved models for tests, made without training: gpt2-nano and a head that scikit-learn fits to its last tokens."""

import functools
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from conftest import NANO, make_texts
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from sklearn.linear_model import LogisticRegression

from recipe import GPT2LastTokenClassifier, load_tokenizer
from recipe.data.dataset import save_splits
from recipe.data.trained_on import save_trained_on
from recipe.model.export import save_classifier

LABELS = ["medicine", "sport", "technology"]  # by id


def to_dataset(frame: pd.DataFrame, names: list[str]) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    ids = [names.index(label) for label in frame["label"]]
    return Dataset.from_dict({"text": frame["text"].tolist(), "label": ids}, features=features)


def cut(frame: pd.DataFrame, names: list[str]) -> DatasetDict:
    """The first 70 % for training, 10 % for validation, the rest for test."""
    a, b = int(len(frame) * 0.7), int(len(frame) * 0.8)
    parts = {"train": frame[:a], "validation": frame[a:b], "test": frame[b:]}
    return DatasetDict({name: to_dataset(part, names) for name, part in parts.items()})


def fit_head(splits: DatasetDict, names: list[str], **config) -> tuple[GPT2LastTokenClassifier, object]:
    """gpt2-nano with its head fitted to the training split, and its tokenizer."""
    model = GPT2LastTokenClassifier.from_pretrained(NANO, id2label=dict(enumerate(names)), **config).eval()
    tokenizer = load_tokenizer(str(NANO), model.config)
    hidden = []
    model.score.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    with torch.no_grad():
        for start in range(0, len(splits["train"]), 32):
            batch = tokenizer(splits["train"]["text"][start : start + 32], padding=True, return_tensors="pt")
            model(batch["input_ids"], batch["attention_mask"])
    model.score._forward_pre_hooks.clear()
    fitted = LogisticRegression(C=0.01, max_iter=200).fit(torch.cat(hidden).numpy(), splits["train"]["label"][:])
    weight, bias = fitted.coef_, fitted.intercept_
    if len(names) == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.score.weight.copy_(torch.from_numpy(weight))
        model.score.bias.copy_(torch.from_numpy(bias))
    return model, tokenizer


def save_run(folder: Path, model, tokenizer, splits: DatasetDict) -> Path:
    """A folder with all that evaluate_model.py and predict.py look for in that of a run."""
    save_classifier(model, tokenizer, folder)
    save_splits(splits, folder)
    save_trained_on(folder, splits["train"]["text"], NANO)
    return folder


@functools.cache
def three_label_run() -> Path:
    """The first two blocks are enough for texts whose words tell their label."""
    splits = cut(make_texts(300, ["sport", "medicine", "technology"]), LABELS)
    return save_run(Path(os.environ["HF_HOME"]) / "three", *fit_head(splits, LABELS, n_layer=2), splits)

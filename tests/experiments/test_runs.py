"""The runner's trainings against train.py's steps, and results that outlast an interruption."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import fields_of, make_texts, run_training, tiny_folder
from safetensors.torch import load_file, save_file
from saved_models import LABELS, three_label_run, to_dataset

from recipe import GPT2LastTokenClassifier, load_splits
from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.experiments.runs import Results, Runner, alone, settings_of, unfinished


def arguments_for(model, *fields):
    return parse_arguments(["--model_name_or_path", str(model), "--train_file", "x", "--output_dir", "x", *fields])


def some_splits():
    return {"train": to_dataset(make_texts(40, LABELS), LABELS), "test": to_dataset(make_texts(20, LABELS, 1), LABELS)}


def test_a_training_is_train_pys(texts_file, tmp_path):
    """The logits of a run of scripts/train.py without validation, of the same options."""
    fields = ["--num_train_epochs", "2", "--eval_strategy", "no", "--save_strategy", "no"]
    fields += ["--load_best_model_at_end", "false", "--seed", "7"]
    run_training(texts_file, tmp_path / "run", *fields)
    more = ["--per_device_train_batch_size", "16", "--learning_rate", "1e-3"]  # what run_training adds
    arguments = parse_arguments([*fields_of(tiny_folder(), texts_file, tmp_path), *fields, *more])
    splits = load_splits(arguments[1])
    logits = Runner(arguments, splits).train_to_the_end(None, ("test", None))
    model = GPT2LastTokenClassifier.from_pretrained(tmp_path / "run").eval()
    runner = Runner(arguments, splits)
    with torch.no_grad():
        for row, ids in zip(logits, runner.tokenized["test"]["input_ids"], strict=True):
            np.testing.assert_allclose(model(input_ids=torch.tensor([ids])).logits[0], row, atol=1e-4)


def test_each_training_has_a_fresh_head_though_the_base_is_a_classifier_of_the_labels():
    """By GPT-2's rule: weights from a normal distribution with the config's deviation, biases 0."""
    base = GPT2LastTokenClassifier.from_pretrained(three_label_run())
    runner = Runner(arguments_for(three_label_run()), some_splits())
    models = [runner.make_model(seed) for seed in (1, 1, 2)]
    heads = [model.score.weight for model in models]
    assert not any(model.score.bias.any() for model in models)
    assert torch.equal(models[0].transformer.h[-1].ln_1.weight, base.transformer.h[-1].ln_1.weight)
    assert torch.equal(heads[0], heads[1])
    for other in (heads[2], base.score.weight):
        assert (heads[0] != other).all()
    assert heads[0].std().item() == pytest.approx(base.config.initializer_range, rel=0.15)


def test_the_bases_head_can_be_kept_and_its_threshold_is_not(tmp_path):
    base = GPT2LastTokenClassifier.from_pretrained(three_label_run())
    base.config.update({"decision_threshold": 0.9, "window": 16, "window_overlap": 4})
    base.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(three_label_run() / name, tmp_path)
    with pytest.raises(RecipeError, match="experiments truncate them: pass --window 0"):
        Runner(arguments_for(tmp_path), some_splits())
    model = Runner(arguments_for(tmp_path, "--window", "0"), some_splits(), keep_head=True).make_model(0)
    assert torch.equal(model.score.weight, base.score.weight)
    assert (model.config.decision_threshold, model.config.window) == (None, None)


@pytest.mark.parametrize("epochs", ["1", "2"])
def test_texts_of_both_splits_come_from_the_cache(tmp_path, monkeypatch, epochs):
    """The second training runs no trunk, nor does another runner; all have the logits of one without a cache."""
    fields = ["--num_train_epochs", epochs, "--learning_rate", "1e-3", "--feature_cache_dir", str(tmp_path)]
    arguments = arguments_for(tiny_folder(), *fields)
    runs, trunk = [], GPT2LastTokenClassifier.trunk

    def counted(self, input_ids, depth=None):
        runs.append(len(input_ids))
        return trunk(self, input_ids, depth)

    monkeypatch.setattr(GPT2LastTokenClassifier, "trunk", counted)
    runner, part, test = Runner(arguments, some_splits()), np.arange(0, 40, 3), ("test", np.arange(15))
    first = runner.train_to_the_end(part, test, seed=3)
    assert sum(runs) == 60
    np.testing.assert_array_equal(runner.train_to_the_end(part, test, seed=3), first)
    np.testing.assert_array_equal(Runner(arguments, some_splits()).train_to_the_end(part, test, seed=3), first)
    assert sum(runs) == 60
    assert (runner.train_to_the_end(part, test, seed=4) != first).any()
    assert (runner.train_to_the_end(None, test, seed=3) != first).any()
    arguments[0].feature_cache = "off"
    np.testing.assert_allclose(Runner(arguments, some_splits()).train_to_the_end(part, test, seed=3), first, atol=1e-4)
    assert sum(runs) > 60


def test_settings_are_options_and_files_of_the_model(tmp_path, texts_file):
    model = shutil.copytree(tiny_folder(), tmp_path / "model")

    def settings(folder, *fields):
        return settings_of(parse_arguments([*fields_of(model, texts_file, folder), *fields]))

    first = settings(tmp_path / "a")
    assert first == settings(tmp_path / "b")
    assert first != settings(tmp_path / "a", "--learning_rate", "0.1")
    weights = load_file(model / "model.safetensors")
    weights["wte.weight"][0, 0] += 1
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    assert first != settings(tmp_path / "a")
    json.dumps(first)


def measured(path, *depends_on, cases=("a", "b"), stop_at=None):
    """What each case gives, and the cases that were measured."""
    results, calls = Results(path, *depends_on), []

    def measure(name):
        if name == stop_at:
            raise KeyboardInterrupt
        calls.append(name)
        return {"logits": np.float32([0.1, 1 / 3]).tolist(), "name": name}

    found = [results.of({"name": name}, lambda name=name: measure(name)) for name in cases]
    return found, calls


def test_a_second_run_measures_what_is_missing(tmp_path):
    path = unfinished(tmp_path / "x.csv")
    with pytest.raises(KeyboardInterrupt):
        measured(path, {"seed": 1}, stop_at="b")
    found, calls = measured(path, {"seed": 1})
    assert calls == ["b"]
    assert np.array_equal(np.float32(found[0]["logits"]), np.float32([0.1, 1 / 3]))  # to the last bit
    assert measured(path, {"seed": 1}) == (found, [])
    assert measured(path, {"seed": 2})[1] == ["a", "b"]
    assert measured(path, {"seed": 1}, ["text"])[1] == ["a", "b"]


def test_a_file_is_used_by_one_process_alone(tmp_path, monkeypatch):
    with (
        alone(tmp_path / "x"),
        pytest.raises(RecipeError, match="x is in use by another process"),
        alone(tmp_path / "x"),
    ):
        pass
    monkeypatch.setattr("recipe.experiments.runs.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(RecipeError, match="experiments are one process"), alone(tmp_path / "x"):
        pass


@pytest.mark.parametrize("left", [lambda text: text[:-7], lambda text: text + "\n[]\n{}\nnull", lambda text: ""])
def test_a_line_that_a_kill_has_cut_is_measured_again(tmp_path, left):
    measured(tmp_path / "x", 1)
    (tmp_path / "x").write_text(left((tmp_path / "x").read_text()))
    measured(tmp_path / "x", 1)
    assert measured(tmp_path / "x", 1)[1] == []

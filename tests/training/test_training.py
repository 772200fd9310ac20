import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NANO, SMS, make_texts, needs_sms, run_training, tiny_model
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, log_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

from recipe import freeze_except
from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier
from recipe.training.run import make_trainer, prepare_run


def read_json(path):
    return json.loads(path.read_text())


def test_a_run_leaves_a_stock_model_and_its_figures(trained):
    names = {path.name for path in trained.iterdir() if path.is_file()}
    results = {f"{part}_results.json" for part in ("train", "eval", "test")}
    assert results | {"config.json", "model.safetensors", "tokenizer.json", "run_config.yaml"} <= names
    assert not [path.name for path in trained.iterdir() if path.name.startswith(".")]
    config = read_json(trained / "config.json")
    assert config["architectures"] == ["GPT2ForSequenceClassification"]
    assert config["id2label"] == {"0": "medicine", "1": "sport", "2": "technology"}
    assert (config["activation_function"], config["dtype"], config["pad_token_id"]) == ("gelu_new", "float32", 8191)
    test = read_json(trained / "test_results.json")
    assert test["test_accuracy"] > 0.9
    assert {"test_macro_f1", "test_loss", "test_precision_sport", "test_recall_sport", "test_f1_sport"} <= set(test)
    stdout = (trained / "stdout.txt").read_text()
    assert f"test_accuracy {test['test_accuracy']:.4f}" in stdout
    assert "Some of its texts:" in stdout
    assert re.search(r"trainable +198,915", (trained / "stderr.txt").read_text())


def test_the_figures_are_the_saved_models_by_transformers_and_scikit_learn(trained):
    """The test split made again by hand, the model run by transformers alone."""
    _, data_args, _ = parse_arguments(["--config", str(trained / "run_config.yaml")])
    from recipe.data.dataset import load_splits

    frame = load_splits(data_args).test
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(trained).eval(),
        AutoTokenizer.from_pretrained(trained),
    )
    with torch.no_grad():
        batch = tokenizer(frame["text"].tolist(), padding=True, truncation=True, return_tensors="pt")
        probabilities = model(**batch).logits.softmax(-1).numpy()
    figures, labels = read_json(trained / "test_results.json"), frame["label"].tolist()
    assert figures["test_samples"] == len(labels) == 60
    assert figures["test_accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    assert figures["test_macro_f1"] == pytest.approx(f1_score(labels, probabilities.argmax(1), average="macro"))
    assert figures["test_loss"] == pytest.approx(log_loss(labels, probabilities), abs=1e-4)


def test_frozen_parameters_stay_bit_identical_and_trained_ones_move(trained):
    before, after = load_file(NANO / "model.safetensors"), load_file(trained / "model.safetensors")
    for name, tensor in after.items():
        old = before.get(name, before.get(name.removeprefix("transformer.")))
        if name.startswith(("transformer.h.11.", "transformer.ln_f.")):
            assert not torch.equal(tensor, old.float()), name
        elif not name.startswith("score."):
            assert torch.equal(tensor, old.float()), name


def test_the_same_command_twice_gives_the_same_numbers(three_labels, tmp_path):
    first, second = (run_training(three_labels, tmp_path / name) for name in ("a", "b"))
    assert first == second
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert run_training(three_labels, tmp_path / "c", "--seed", "1") != first


def test_trainers_own_loss_and_gradient_scaling(three_labels, tmp_path):
    """Two half batches accumulated are one whole batch: the loss is not divided twice."""
    weights = {}
    for name, fields in (("whole", ["16", "1"]), ("halves", ["8", "2"])):
        sizes = ["--per_device_train_batch_size", fields[0], "--gradient_accumulation_steps", fields[1]]
        run_training(three_labels, tmp_path / name, *sizes, "--max_steps", "2", "--optim", "sgd", "--eval_strategy", "no",
                     "--save_strategy", "no", "--load_best_model_at_end", "false", "--learning_rate", "0.1")  # fmt: skip
        weights[name] = load_file(tmp_path / name / "model.safetensors")["score.weight"]
    torch.testing.assert_close(weights["whole"], weights["halves"], atol=1e-5, rtol=1e-4)


def test_the_trainer_gets_what_was_asked(three_labels, tmp_path):
    argv = ["--model_name_or_path", str(NANO), "--train_file", str(three_labels), "--output_dir", str(tmp_path / "x")]
    arguments = parse_arguments(
        [*argv, "--class_weight", "balanced", "--early_stopping_patience", "1", "--feature_cache", "off"]
    )
    run = prepare_run(*arguments)
    trainer = make_trainer(run, arguments[0], arguments[2])
    assert isinstance(trainer, Trainer)
    assert trainer.model is run.model
    assert "EarlyStopping" in {type(callback).__name__ for callback in trainer.callback_handler.callbacks}
    counts = run.splits.train["label"].value_counts().sort_index()
    expected = torch.tensor((counts.sum() / (3 * counts)).to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(run.model.class_weights, expected)


def test_best_model_by_validation_is_what_is_saved(three_labels, tmp_path):
    """A learning rate that ruins the model after a first good epoch: the saved figures are the best epoch's."""
    run_training(
        three_labels,
        tmp_path / "x",
        "--num_train_epochs",
        "3",
        "--learning_rate",
        "0.02",
        "--lr_scheduler_type",
        "constant",
    )
    log = read_json(tmp_path / "x" / "trainer_state.json")["log_history"]
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert len(losses) == 3
    assert read_json(tmp_path / "x" / "eval_results.json")["eval_loss"] == pytest.approx(min(losses), abs=1e-4)


def test_resuming_ends_where_the_whole_run_ends(three_labels, tmp_path):
    whole = run_training(three_labels, tmp_path / "whole", "--num_train_epochs", "2", "--lr_scheduler_type", "constant")
    run_training(three_labels, tmp_path / "parts", "--num_train_epochs", "1", "--lr_scheduler_type", "constant")
    fields = ["--num_train_epochs", "2", "--lr_scheduler_type", "constant", "--resume_from_checkpoint", "last"]
    assert run_training(three_labels, tmp_path / "parts", *fields) == pytest.approx(whole)
    with pytest.raises(RecipeError, match="holds no checkpoint to resume from"):
        run_training(three_labels, tmp_path / "new", "--resume_from_checkpoint", "last")


def test_an_old_run_is_kept_unless_told(three_labels, tmp_path):
    output = tmp_path / "x"
    run_training(three_labels, output)
    (output / "notes.txt").write_text("mine")
    stamp = (output / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(
        RecipeError, match="a finished run of this config: give another one, or pass --overwrite_output_dir"
    ):
        run_training(three_labels, output)
    with pytest.raises(RecipeError, match="cannot be read"):
        run_training(tmp_path / "nowhere.csv", output, "--overwrite_output_dir")
    assert (output / "model.safetensors").stat().st_mtime_ns == stamp
    run_training(
        three_labels, output, "--overwrite_output_dir", "--save_strategy", "no", "--load_best_model_at_end", "false"
    )
    assert (output / "notes.txt").read_text() == "mine"
    assert not list(output.glob("checkpoint-*"))  # those of the old run, which this one does not make
    assert (output / "model.safetensors").stat().st_mtime_ns != stamp


def test_what_cannot_be_stock_is_said_and_saved_as_our_own(three_labels, tmp_path, caplog):
    run_training(three_labels, tmp_path / "x", "--pooling", "mean", "--trainable", "head")
    assert "GPT2LastTokenClassifier, which pipeline() cannot load" in caplog.text
    assert read_json(tmp_path / "x" / "config.json")["architectures"] == ["GPT2LastTokenClassifier"]
    assert TextClassifier.from_pretrained(tmp_path / "x").model.pooling == "mean"


def test_resuming_into_another_runs_folder_needs_the_flag(three_labels, tmp_path):
    run_training(three_labels, tmp_path / "a")
    run_training(three_labels, tmp_path / "b")
    (checkpoint,) = (tmp_path / "a").glob("checkpoint-*")
    with pytest.raises(RecipeError, match="is not empty"):
        run_training(three_labels, tmp_path / "b", "--resume_from_checkpoint", str(checkpoint))


def test_integer_labels_and_own_test_file(tmp_path):
    frame = make_texts(90, ["sport", "medicine"]).assign(label=lambda f: (f["label"] == "sport").astype(int))
    frame[:60].to_json(tmp_path / "train.jsonl", orient="records", lines=True)
    frame[60:].to_csv(tmp_path / "test.csv", index=False)
    results = run_training(tmp_path / "train.jsonl", tmp_path / "x", "--test_file", str(tmp_path / "test.csv"))
    assert results["test_samples"] == 30
    assert "test_f1_1" in results
    assert pd.Series(TextClassifier.from_pretrained(tmp_path / "x").predict(frame["text"])[0]).isin(["0", "1"]).all()


def test_a_filter_may_be_any_list(three_labels, tmp_path):
    globs = ["transformer.h.10.*", "transformer.h.11.attn.*", "score.*"]
    run_training(three_labels, tmp_path / "x", "--trainable", *globs)
    before, after = load_file(NANO / "model.safetensors"), load_file(tmp_path / "x" / "model.safetensors")
    moved = {name for name in after if name in before and not torch.equal(after[name], before[name].float())}
    model = tiny_model(n_layer=12)
    freeze_except(model, globs)
    expected = {name for name, p in model.named_parameters() if p.requires_grad} - {"score.weight", "score.bias"}
    # The head's bias is folded into ln_f.bias; a key's bias has no gradient but rounding, so it may not move.
    assert moved - {"transformer.ln_f.bias"} <= expected
    assert {name for name in expected if name.endswith("weight")} <= moved


def logits_of(folder, data):
    return TextClassifier.from_pretrained(folder).logits(pd.read_csv(data)["text"])


@pytest.mark.parametrize("trainable", ["last_blocks:1", "last_blocks:2", "last_blocks:3", "head"])
def test_the_cached_trunk_gives_the_plain_paths_model(three_labels, tmp_path, trainable):
    fields = ["--num_train_epochs", "5", "--per_device_train_batch_size", "8", "--trainable", trainable]
    figures = {}
    for name, choice in (("plain", "off"), ("fast", "on")):
        cache = ["--feature_cache", choice, "--feature_cache_dir", str(tmp_path / "cache")]
        figures[name] = run_training(three_labels, tmp_path / name, *fields, *cache)
    assert bool(list((tmp_path / "cache").rglob("*.arrow")))
    plain, fast = (logits_of(tmp_path / name, three_labels) for name in ("plain", "fast"))
    np.testing.assert_allclose(fast, plain, atol=1e-4, rtol=0)
    assert abs(plain).max() > 0.1
    assert figures["fast"]["test_accuracy"] == figures["plain"]["test_accuracy"]


def test_a_cache_that_cannot_be_written_is_said(three_labels, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RecipeError, match=r"feature cache in .*file: Not a directory: pass --feature_cache_dir DIR"):
        run_training(
            three_labels, tmp_path / "x", "--feature_cache", "on", "--feature_cache_dir", str(tmp_path / "file")
        )
    assert not (tmp_path / "x").exists()


def test_checkpoints_of_the_tail_hold_the_tail_alone(three_labels, tmp_path):
    run_training(three_labels, tmp_path / "x", "--feature_cache", "on", "--feature_cache_dir", str(tmp_path / "cache"))
    (checkpoint,) = (tmp_path / "x").glob("checkpoint-*")
    weights = load_file(checkpoint / "model.safetensors")
    assert all(name.startswith(("transformer.h.11.", "transformer.ln_f.", "score.")) for name in weights)
    assert sum(tensor.numel() for tensor in weights.values()) == 198_915
    with pytest.raises(
        RecipeError, match="holds the trained tail alone, as a run's checkpoints do: give the run's output_dir"
    ):
        TextClassifier.from_pretrained(checkpoint)


@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
@pytest.mark.parametrize("cache", ["on", "off"])
def test_resuming_in_the_middle_of_an_epoch_is_bit_exact(three_labels, tmp_path, cache, sampling):
    """84 texts in batches of 8: 11 steps an epoch. One run of 22 steps; one that a checkpoint at step 16 goes on from."""
    fields = ["--feature_cache", cache, "--feature_cache_dir", str(tmp_path / "cache"), "--num_train_epochs", "2"]
    fields += ["--per_device_train_batch_size", "8", "--train_sampling_strategy", sampling, "--dropout", "0.1"]
    fields += ["--eval_strategy", "steps", "--eval_steps", "16", "--save_strategy", "steps", "--save_steps", "16"]
    fields += ["--load_best_model_at_end", "false", "--save_total_limit", "5"]
    run_training(three_labels, tmp_path / "whole", *fields)
    (tmp_path / "parts").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-16", tmp_path / "parts" / "checkpoint-16")
    run_training(three_labels, tmp_path / "parts", *fields, "--resume_from_checkpoint", "last")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@needs_sms
def test_a_bfloat16_trunk_costs_at_most_one_message_in_300(tmp_path):
    fields = [
        "--column_names",
        "label",
        "text",
        "--feature_cache",
        "on",
        "--feature_cache_dir",
        str(tmp_path / "cache"),
    ]
    fields += ["--max_train_samples", "300", "--max_eval_samples", "50", "--max_predict_samples", "300"]
    for seed in ("0", "1", "2"):
        accuracy = {}
        for dtype in ("float32", "bfloat16"):
            choice = ["--seed", seed, "--trunk_dtype", dtype, "--num_train_epochs", "3"]
            accuracy[dtype] = run_training(SMS, tmp_path / f"{dtype}{seed}", *fields, *choice)["test_accuracy"]
        assert abs(accuracy["bfloat16"] - accuracy["float32"]) <= 1 / 300 + 1e-9
        assert read_json(tmp_path / f"bfloat16{seed}" / "config.json")["dtype"] == "float32"

"""scripts/train.py from options to a saved model, in this process; the `trained` run through the launcher."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NANO, SMS, make_texts, needs_sms, run_training, same_weights, tiny_folder, train_on
from datasets import load_dataset
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score, log_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipe.data.windows import Windows
from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier

LABELS = ["sport", "medicine", "technology"]


def read_json(path):
    return json.loads(path.read_text())


def test_run_leaves_a_stock_model_and_its_figures(trained):
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
    train = read_json(trained / "train_results.json")
    assert (train["train_samples"], train["trainable_parameters"]) == (210, 198_915)
    assert train["train_tokens"] == train["train_tokens_seen"] > 210
    stdout, stderr = (trained / "stdout.txt").read_text(), (trained / "stderr.txt").read_text()
    assert f"test_accuracy {test['test_accuracy']:.4f}" in stdout
    assert "Predictions on some of its texts:" in stdout
    assert re.search(r"trainable +198,915", stderr)
    rows = [line.split() for line in stderr.splitlines()]
    for row in ("train 210 70 70 70", "validation 30 10 10 10", "test 60 20 20 20"):
        assert row.split() in rows


@pytest.mark.parametrize(("name", "prefix", "count"), [("validation", "eval", 30), ("test", "test", 60)])
def test_figures_are_the_saved_models_by_transformers_and_scikit_learn(trained, name, prefix, count):
    """The run's own splits, the model run by transformers alone."""
    rows = load_dataset("parquet", data_files=str(trained / "splits" / f"{name}.parquet"), split="train")
    model = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained)
    with torch.no_grad():
        batch = tokenizer(list(rows["text"]), padding=True, truncation=True, return_tensors="pt")
        probabilities = model(**batch).logits.softmax(-1).numpy()
    figures, labels = read_json(trained / f"{prefix}_results.json"), list(rows["label"])
    assert figures[f"{prefix}_samples"] == len(labels) == count
    assert figures[f"{prefix}_accuracy"] == pytest.approx(accuracy_score(labels, probabilities.argmax(1)))
    assert figures[f"{prefix}_macro_f1"] == pytest.approx(f1_score(labels, probabilities.argmax(1), average="macro"))
    assert figures[f"{prefix}_loss"] == pytest.approx(log_loss(labels, probabilities), abs=1e-4)


def test_frozen_parameters_stay_bit_identical_and_trained_ones_move(trained):
    before, after = load_file(NANO / "model.safetensors"), load_file(trained / "model.safetensors")
    for name, tensor in after.items():
        old = before.get(name, before.get(name.removeprefix("transformer.")))
        if name.startswith(("transformer.h.11.", "transformer.ln_f.")):
            assert not torch.equal(tensor, old.float()), name
        elif not name.startswith("score."):
            assert torch.equal(tensor, old.float()), name


def test_without_texts_the_answers_have_none(three_labels, tmp_path):
    run_training(three_labels, tmp_path / "run", "--save_texts", "false")
    answers, texts = pd.read_csv(tmp_path / "run" / "test_predictions.csv"), pd.read_csv(three_labels)
    assert "text" not in answers
    assert texts["label"][answers["row"] - 2].tolist() == answers["label"].tolist()


def test_same_command_twice_gives_the_same_numbers(three_labels, tmp_path):
    first, second = (run_training(three_labels, tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert run_training(three_labels, tmp_path / "c", "--seed", "1") != first


def test_best_model_by_validation_is_the_one_saved(three_labels, tmp_path):
    """A learning rate that ruins the model after a good first epoch: the saved figures are the best epoch's."""
    fields = ["--num_train_epochs", "3", "--learning_rate", "0.02", "--lr_scheduler_type", "constant"]
    train_on(NANO, three_labels, tmp_path / "x", *fields)
    log = read_json(tmp_path / "x" / "trainer_state.json")["log_history"]
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert len(losses) == 3
    assert read_json(tmp_path / "x" / "eval_results.json")["eval_loss"] == pytest.approx(min(losses), abs=1e-4)


def test_cached_and_plain_path_give_the_same_model(three_labels, tmp_path):
    fields = ["--num_train_epochs", "3", "--per_device_train_batch_size", "8"]
    figures, logits = {}, {}
    for choice in ("off", "on"):
        cache = ["--feature_cache", choice, "--feature_cache_dir", str(tmp_path / "cache")]
        figures[choice] = run_training(three_labels, tmp_path / choice, *fields, *cache)
        logits[choice] = TextClassifier.from_pretrained(tmp_path / choice).logits(pd.read_csv(three_labels)["text"])
    assert bool(list((tmp_path / "cache").rglob("*.arrow")))
    np.testing.assert_allclose(logits["on"], logits["off"], atol=1e-4, rtol=0)
    assert abs(logits["off"]).max() > 0.1
    assert figures["on"]["test_accuracy"] == figures["off"]["test_accuracy"]


def test_filter_may_be_any_list(three_labels, tmp_path):
    globs = ["transformer.h.2.*", "transformer.h.3.attn.*", "score.*"]
    run_training(three_labels, tmp_path / "x", "--trainable", *globs)
    before = load_file(tiny_folder() / "model.safetensors")
    after = load_file(tmp_path / "x" / "model.safetensors")
    moved = {
        name
        for name, tensor in after.items()
        if not name.startswith("score.") and not torch.equal(tensor, before[name.removeprefix("transformer.")])
    }
    # The head's bias is folded into ln_f.bias; a key's bias has no gradient but rounding, so it may not move.
    assert all(
        name.startswith(("transformer.h.2.", "transformer.h.3.attn.", "transformer.ln_f.bias")) for name in moved
    )
    weights = {name for name in after if name.endswith("weight") and re.search(r"h\.2\.|h\.3\.attn", name)}
    assert weights <= moved


def test_unwritable_cache_is_reported(three_labels, tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = ["--feature_cache", "on", "--feature_cache_dir", str(tmp_path / "file")]
    with pytest.raises(RecipeError, match=r"feature cache in .*file \(Not a directory\): pass --feature_cache_dir DIR"):
        run_training(three_labels, tmp_path / "x", *cache)


def test_integer_labels_and_own_test_file(tmp_path):
    frame = make_texts(90, LABELS[:2]).assign(label=lambda f: (f["label"] == "sport").astype(int))
    frame[:60].to_json(tmp_path / "train.jsonl", orient="records", lines=True)
    frame[60:].to_csv(tmp_path / "test.csv", index=False)
    results = run_training(tmp_path / "train.jsonl", tmp_path / "x", "--test_file", str(tmp_path / "test.csv"))
    assert results["test_samples"] == 30
    assert "test_f1_1" in results
    assert pd.Series(TextClassifier.from_pretrained(tmp_path / "x").predict(frame["text"])[0]).isin(["0", "1"]).all()


def test_class_weights_reach_the_loss(tmp_path):
    """On nine texts of one label to one of the other, weighted training is bolder with the rare one."""
    make_texts(120, ["sport"] * 9 + ["medicine"]).to_csv(tmp_path / "rare.csv", index=False)
    means = {}
    for choice in ("none", "balanced"):
        fields = ["--class_weight", choice, "--num_train_epochs", "3", "--gradient_accumulation_steps", "2"]
        train_on(NANO, tmp_path / "rare.csv", tmp_path / choice, *fields)
        classifier = TextClassifier.from_pretrained(tmp_path / choice)
        texts = make_texts(40, ["sport", "medicine"], seed=5)["text"].tolist()
        means[choice] = classifier.predict(texts)[1][:, classifier.label_names.index("medicine")].mean()
    assert means["balanced"] > means["none"] + 0.05


def test_model_without_a_stock_form_is_saved_as_our_own(three_labels, tmp_path, caplog):
    run_training(three_labels, tmp_path / "x", "--pooling", "mean", "--trainable", "head")
    assert "the saved model will be GPT2LastTokenClassifier, our own class" in caplog.text
    assert read_json(tmp_path / "x" / "config.json")["architectures"] == ["GPT2LastTokenClassifier"]
    assert TextClassifier.from_pretrained(tmp_path / "x").model.pooling == "mean"


@needs_sms
@pytest.mark.slow
def test_bfloat16_trunk_costs_at_most_one_message_in_300(tmp_path):
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
    fields += ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]
    accuracy = {}
    for dtype in ("float32", "bfloat16"):
        choice = ["--trunk_dtype", dtype, "--num_train_epochs", "3"]
        accuracy[dtype] = train_on(NANO, SMS, tmp_path / dtype, *fields, *choice)["test_accuracy"]
    assert abs(accuracy["bfloat16"] - accuracy["float32"]) <= 1 / 300 + 1e-9
    assert accuracy["float32"] > 0.9
    assert read_json(tmp_path / "bfloat16" / "config.json")["dtype"] == "float32"


# ---- Training further from a saved model ----

STILL = ["--learning_rate", "0", "--max_steps", "2"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run on three labels, in its folder, with its data beside it."""
    folder = tmp_path_factory.mktemp("retraining")
    make_texts(90, LABELS).to_csv(folder / "data.csv", index=False)
    make_texts(60, LABELS[:2], seed=3).to_csv(folder / "two.csv", index=False)
    run_training(folder / "data.csv", folder / "saved", "--feature_cache", "on")
    return folder / "saved"


@torch.no_grad()
def logits_by_transformers(model_dir):
    """The stock model's logits of unpadded texts."""
    model = AutoModelForSequenceClassification.from_pretrained(model_dir).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    texts = make_texts(30, LABELS, seed=7)["text"]
    return torch.cat([model(torch.tensor([tokenizer(text)["input_ids"]])).logits for text in texts]).numpy()


def test_retraining_starts_where_the_first_run_ended(saved, tmp_path):
    """At learning rate 0 every logit is the saved model's; the bias that was folded away is not lost."""
    before = logits_by_transformers(saved)
    two = saved.parent / "two.csv"
    train_on(saved, two, tmp_path / "still", "--feature_cache", "on", *STILL)
    np.testing.assert_allclose(logits_by_transformers(tmp_path / "still"), before, atol=1e-5)
    assert TextClassifier.from_pretrained(tmp_path / "still").label_names == sorted(LABELS)
    assert abs(before).max() > 0.1
    train_on(saved, two, tmp_path / "moved", "--feature_cache", "off", "--max_steps", "2", "--learning_rate", "0.01")
    assert abs(logits_by_transformers(tmp_path / "moved") - before).max() > 0.01


def test_retraining_warns_of_test_texts_that_were_trained_on(saved, tmp_path, caplog):
    train_on(saved, saved.parent / "data.csv", tmp_path / "same", *STILL)
    assert "test texts were trained on" not in caplog.text  # the same split
    train_on(saved, saved.parent / "data.csv", tmp_path / "other", "--split_seed", "7", *STILL)
    assert re.search(r"\d+ of the 18 test texts were trained on", caplog.text)


def test_retraining_keeps_pooling_truncation_and_windows(tmp_path):
    make_texts(90, LABELS).to_csv(tmp_path / "data.csv", index=False)
    fields = ["--pooling", "mean", "--truncation_side", "left", "--window", "12", "--window_overlap", "2"]
    run_training(tmp_path / "data.csv", tmp_path / "mean", *fields, "--max_length", "30", "--max_steps", "4")
    texts = make_texts(30, LABELS, seed=7)["text"].tolist()
    before = TextClassifier.from_pretrained(tmp_path / "mean").predict(texts)[1]
    train_on(tmp_path / "mean", tmp_path / "data.csv", tmp_path / "again", *STILL)
    again = TextClassifier.from_pretrained(tmp_path / "again")
    assert (again.model.pooling, again.tokenizer.truncation_side) == ("mean", "left")
    assert again.windows == Windows(12, 2, 30)
    np.testing.assert_allclose(again.predict(texts)[1], before, atol=1e-6)
    train_on(tmp_path / "mean", tmp_path / "data.csv", tmp_path / "off", "--window", "0", "--pooling", "last", *STILL)
    off = TextClassifier.from_pretrained(tmp_path / "off")
    assert (off.windows, off.model.pooling) == (None, "last")


def test_other_labels_are_refused_or_get_a_fresh_head(saved, tmp_path):
    rows = make_texts(60, LABELS, seed=3).replace("sport", "games")
    rows.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(RecipeError, match="head is for the labels medicine, sport, technology, the data has games"):
        train_on(saved, tmp_path / "other.csv", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    train_on(saved, tmp_path / "other.csv", tmp_path / "x", "--ignore_mismatched_sizes", "true", *STILL)
    assert TextClassifier.from_pretrained(tmp_path / "x").label_names == ["games", "medicine", "technology"]


def test_checkpoint_of_the_tail_is_refused_with_the_folder_to_give(saved, tmp_path):
    (checkpoint,) = saved.glob("checkpoint-*")
    with pytest.raises(RecipeError, match=f"holds the trained weights alone: give the run's output_dir, {saved}$"):
        train_on(checkpoint, saved.parent / "data.csv", tmp_path / "x")
    with pytest.raises(RecipeError, match="holds the trained weights alone"):
        TextClassifier.from_pretrained(checkpoint)


def test_checkpoint_is_not_taken_for_a_model(saved, tmp_path):
    """It holds the trained weights alone, on the plain path too."""
    run_training(saved.parent / "data.csv", tmp_path / "plain", "--feature_cache", "off", "--max_steps", "2")
    (checkpoint,) = (tmp_path / "plain").glob("checkpoint-*")
    with pytest.raises(RecipeError, match="is a run's checkpoint, which holds the trained weights alone"):
        TextClassifier.from_pretrained(checkpoint)

"""Runs that calibrate and tune, judged by transformers, scikit-learn and scipy on the folder they leave."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import NANO, make_texts, run_training, train_on
from safetensors.torch import load_file
from scipy.stats import binomtest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from recipe.data.dataset import load_saved_splits
from recipe.errors import RecipeError
from recipe.inference.text_classifier import TextClassifier

SMALL = ["--baselines", "false", "--max_train_samples", "40", "--max_eval_samples", "20", "--max_predict_samples", "20"]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Six in ten of the texts on medicine have the label sport: 0.5 is no good threshold, and no model is right on all."""
    folder, rng = tmp_path_factory.mktemp("noisy"), np.random.default_rng(0)
    frame = pd.concat([make_texts(150, ["sport"]), make_texts(150, ["medicine"], seed=1)])
    frame["label"] = np.where(rng.random(len(frame)) < 0.6, "sport", frame["label"])
    frame.to_csv(folder / "noisy.csv", index=False)
    return folder / "noisy.csv"


@pytest.fixture(scope="module")
def runs(noisy, tmp_path_factory):
    """The same training twice: as it is, and calibrated and tuned after it."""
    folder = tmp_path_factory.mktemp("runs")
    fields = ["--num_train_epochs", "3", "--validation_fraction", "0.2"]
    train_on(NANO, noisy, folder / "plain", *fields, "--baselines", "true")
    train_on(NANO, noisy, folder / "calibrated", *fields, "--calibrate", "true", "--decision_threshold", "tune")
    return folder


def read(path):
    return json.loads(path.read_text())


def softmax_by_transformers(folder, texts):
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return model.eval()(**batch).logits.double().softmax(-1).numpy()


def split(folder, name):
    """The texts and label ids of a run's split."""
    rows = load_saved_splits(folder)[name]
    return list(rows["text"]), np.array(rows["label"])


def test_every_run_reports_its_interval_and_its_baselines(runs):
    figures = read(runs / "plain" / "test_results.json")
    (train_texts, train_labels), (texts, labels) = (split(runs / "plain", name) for name in ("train", "test"))
    right = softmax_by_transformers(runs / "plain", texts).argmax(1) == labels
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    assert (figures["test_accuracy_low"], figures["test_accuracy_high"]) == pytest.approx((interval.low, interval.high))
    vectors = TfidfVectorizer().fit(train_texts)
    model = LogisticRegression().fit(vectors.transform(train_texts), train_labels)
    tfidf = model.predict(vectors.transform(texts))
    assert figures["test_tfidf_accuracy"] == pytest.approx((tfidf == labels).mean())
    assert figures["test_tfidf_macro_f1"] == pytest.approx(f1_score(labels, tfidf, average="macro"))
    gains, losses = int((right & (tfidf != labels)).sum()), int((~right & (tfidf == labels)).sum())
    expected = binomtest(gains, gains + losses).pvalue if gains + losses else 1
    assert figures["test_mcnemar_p_tfidf"] == pytest.approx(expected)
    assert figures["test_majority_accuracy"] == pytest.approx((labels == 1).mean())
    assert not {"temperature", "decision_threshold", "test_ece_uncalibrated"} & set(figures)
    assert "decision_threshold" not in read(runs / "plain" / "config.json")


def test_calibration_divides_the_head_and_nothing_else(runs):
    plain, calibrated = (load_file(runs / name / "model.safetensors") for name in ("plain", "calibrated"))
    figures, before = read(runs / "calibrated" / "test_results.json"), read(runs / "plain" / "test_results.json")
    temperature = figures["temperature"]
    assert temperature != pytest.approx(1, abs=0.02)
    assert all(
        torch.equal(plain[name], calibrated[name]) for name in plain if "score" not in name and "ln_f" not in name
    )
    torch.testing.assert_close(calibrated["score.weight"] * temperature, plain["score.weight"])
    torch.testing.assert_close(calibrated["transformer.ln_f.bias"], plain["transformer.ln_f.bias"], atol=1e-4, rtol=0)
    assert figures["test_ece_uncalibrated"] == pytest.approx(before["test_ece"], abs=1e-4)
    assert figures["test_loss_uncalibrated"] == pytest.approx(before["test_loss"], abs=1e-4)
    assert figures["test_accuracy_at_0.5"] == before["test_accuracy"]
    evals = [read(runs / name / "eval_results.json")["eval_loss"] for name in ("plain", "calibrated")]
    assert evals[1] < evals[0]  # that of the texts it was fitted to can only fall
    texts, labels = split(runs / "calibrated", "validation")
    assert evals[1] == pytest.approx(log_loss(labels, softmax_by_transformers(runs / "calibrated", texts)), abs=1e-4)
    texts, labels = split(runs / "calibrated", "test")
    probabilities = softmax_by_transformers(runs / "calibrated", texts)
    assert figures["test_loss"] == pytest.approx(log_loss(labels, probabilities), abs=1e-4)


def test_tuned_threshold_is_saved_with_the_model_and_followed(runs):
    folder = runs / "calibrated"
    threshold = read(folder / "config.json")["decision_threshold"]
    figures = read(folder / "test_results.json")
    assert figures["decision_threshold"] == threshold != 0.5
    texts, labels = split(folder, "validation")
    second = softmax_by_transformers(folder, texts)[:, 1]
    best = max(f1_score(labels, second >= bound, average="macro") for bound in [*second, 0.5])
    assert f1_score(labels, second >= threshold, average="macro") == pytest.approx(best)
    texts, labels = split(folder, "test")
    second = softmax_by_transformers(folder, texts)[:, 1]
    assert figures["test_accuracy"] == pytest.approx(((second >= threshold) == labels).mean())
    given = TextClassifier.from_pretrained(folder).predict(texts)[0]
    assert given == np.where(second >= threshold, "sport", "medicine").tolist()
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.decision_threshold == threshold


def test_number_is_kept_and_a_later_run_drops_it(noisy, tmp_path, caplog):
    caplog.set_level("INFO", "recipe")
    figures = run_training(noisy, tmp_path / "x", *SMALL, "--decision_threshold", "0.3")
    assert figures["decision_threshold"] == read(tmp_path / "x" / "config.json")["decision_threshold"] == 0.3
    assert "the label 'sport' is predicted where its probability is at least 0.3" in caplog.text
    assert "pipeline() does not know it" in caplog.text
    assert not [name for name in figures if "majority" in name or "tfidf" in name]
    again = run_training(noisy, tmp_path / "y", *SMALL, "--model_name_or_path", str(tmp_path / "x"))
    assert "decision_threshold" not in again
    assert "decision_threshold" not in read(tmp_path / "y" / "config.json")


def test_our_own_class_keeps_its_threshold_too(noisy, tmp_path):
    fields = ["--pooling", "mean", *SMALL, "--calibrate", "true"]
    run_training(noisy, tmp_path / "x", *fields, "--decision_threshold", "0.3")
    assert TextClassifier.from_pretrained(tmp_path / "x").decision_threshold == 0.3
    run_training(noisy, tmp_path / "y", *fields)
    assert "decision_threshold" not in read(tmp_path / "y" / "config.json")


def test_impossible_threshold_is_refused_before_training(three_labels, noisy, tmp_path):
    with pytest.raises(RecipeError, match="decision_threshold is tune, but there are 3 labels"):
        run_training(three_labels, tmp_path / "x", "--decision_threshold", "tune")
    with pytest.raises(RecipeError, match="take tune, or a number between 0 and 1"):
        run_training(noisy, tmp_path / "x", "--decision_threshold", "1.5")
    with pytest.raises(RecipeError, match="all validation texts have the same label"):
        run_training(noisy, tmp_path / "x", "--decision_threshold", "tune", "--max_eval_samples", "1")
    assert not (tmp_path / "x").exists()


def test_edited_config_is_refused_in_one_line(runs, tmp_path):
    config = read(runs / "plain" / "config.json")
    AutoTokenizer.from_pretrained(NANO).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((runs / "plain" / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "decision_threshold": 7}))
    with pytest.raises(RecipeError, match="decision_threshold is 7: take a number between 0 and 1"):
        TextClassifier.from_pretrained(tmp_path)

"""The learning curve: nested parts, scores and laws against closed forms, and what an interruption leaves."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import make_texts
from saved_models import LABELS, to_dataset
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from recipe.config import parse_arguments
from recipe.experiments import curves as module
from recipe.experiments.curves import (
    describe_guess,
    draw_curves,
    extrapolate,
    fit_power_law,
    measure_curve,
    nested_order,
    power_law,
    scores_of,
    summarize,
)
from recipe.experiments.runs import Results, unfinished

FRACTIONS = [0.1, 0.5, 1.0]
NAMES = {"gpt2": "gpt2-nano", "tfidf": "TF-IDF + logistic regression"}


@pytest.fixture(scope="module")
def splits():
    return {"train": to_dataset(make_texts(90, LABELS), LABELS), "test": to_dataset(make_texts(30, LABELS, 1), LABELS)}


class FakeRunner:
    """Right for as many test texts as it has training texts, at most."""

    def __init__(self, splits, stop_at=None):
        self.splits, self.calls, self.stop_at = splits, [], stop_at
        self.label_names = LABELS
        self.arguments = parse_arguments(["--train_file", "x", "--output_dir", "x", "--disable_tqdm", "true"])

    def train_to_the_end(self, train, test, seed):
        assert test == ("test", None)
        if len(self.calls) == self.stop_at:
            raise KeyboardInterrupt
        self.calls.append(([self.splits["train"]["text"][i] for i in train], seed))
        true = np.array(self.splits["test"]["label"])
        return np.eye(3)[np.where(np.arange(len(true)) < len(train), true, (true + 1) % 3)]


def measure(splits, folder, runner=None, fractions=FRACTIONS, seeds=(7, 8), settings=None):
    rows = [splits[name]["text"][:] for name in ("train", "test")]
    results = Results(unfinished(folder / "x.json"), settings or {}, rows)
    return measure_curve(runner or FakeRunner(splits), splits, fractions, seeds, results)


def test_beginnings_are_stratified():
    labels = np.random.default_rng(0).choice(4, 500, p=[0.6, 0.3, 0.08, 0.02])
    order = nested_order(labels, seed=1)
    assert sorted(order) == list(range(500))
    assert (order != nested_order(labels, seed=2)).any()
    shares = np.bincount(labels) / 500
    for size in range(1, 501):
        assert (abs(np.bincount(labels[order[:size]], minlength=4) - size * shares) <= 2).all()


def test_subsets_are_nested_and_differ_by_seed(splits, tmp_path):
    fit = FakeRunner(splits)
    measured, skipped = measure(splits, tmp_path, fit)
    assert [(point["texts"], point["seed"]) for point in measured] == [(n, s) for s in (7, 8) for n in (9, 45, 90)]
    assert skipped == []
    for small, medium, complete in (fit.calls[:3], fit.calls[3:]):
        assert set(small[0]) < set(medium[0]) < set(complete[0])
        assert complete[0] == splits["train"]["text"][:]
    assert set(fit.calls[0][0]) != set(fit.calls[3][0])
    assert [seed for _, seed in fit.calls] == [7, 7, 7, 8, 8, 8]


def test_scores_are_scikit_learns(splits, tmp_path):
    fit = FakeRunner(splits)
    measured, _ = measure(splits, tmp_path, fit)
    true = np.array(splits["test"]["label"])
    predicted = np.where(np.arange(30) < 9, true, (true + 1) % 3)
    assert measured[0]["gpt2"]["accuracy"] == pytest.approx(0.3)
    assert measured[0]["gpt2"]["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
    assert measured[2]["gpt2"] == {"accuracy": 1, "macro_f1": 1}


def test_parts_without_a_label_are_skipped_and_said(tmp_path):
    rare = pd.concat([make_texts(58, LABELS[:2]), make_texts(3, LABELS)[2:]])
    splits = {"train": to_dataset(rare, LABELS), "test": to_dataset(make_texts(30, LABELS, 1), LABELS)}
    measured, skipped = measure(splits, tmp_path, seeds=[7])
    assert skipped == [{"texts": 6, "seed": 7, "lacks": ["technology"]}]
    assert [point["texts"] for point in measured] == [30, 59]


def test_an_interrupted_run_measures_only_what_is_missing(splits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(splits, tmp_path, FakeRunner(splits, stop_at=4))
    assert [path.name for path in tmp_path.iterdir()] == ["x.json.unfinished"]
    rest = FakeRunner(splits)
    measured, _ = measure(splits, tmp_path, rest)
    assert [(len(texts), seed) for texts, seed in rest.calls] == [(45, 8), (90, 8)]
    once = tmp_path / "once"
    once.mkdir()
    assert measured == measure(splits, once)[0]


def test_points_of_other_options_or_texts_are_measured_anew(splits, tmp_path):
    measure(splits, tmp_path)
    others = {"train": splits["test"], "test": splits["train"]}
    for settings, data in [({"learning_rate": 1}, splits), ({}, others)]:
        fit = FakeRunner(data)
        measure(data, tmp_path, fit, settings=settings)
        assert len(fit.calls) == 6


def test_summary_and_picture(splits, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    measured, _ = measure(splits, tmp_path)
    measured[3].pop("tfidf")
    measured[0]["tfidf"]["accuracy"] = 0.3  # of one seed
    measured[0]["gpt2"]["accuracy"] = 0.4  # of 9 texts; the other seed's is 0.3
    scores = scores_of(measured)
    summary = summarize(scores).set_index(["name", "texts"])
    first = summary.loc["gpt2", 9]
    assert (first["seeds"], first["accuracy_mean"]) == (2, pytest.approx(0.35))
    assert first["accuracy_sd"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    assert summary.loc["tfidf", 9]["accuracy_mean"] == 0.3
    assert np.isnan(summary.loc["tfidf", 9]["accuracy_sd"])
    json.dumps(measured)
    guess = extrapolate(scores[scores["name"] == "gpt2"], 30)
    figures = []
    monkeypatch.setattr(module, "write_figure", lambda figure, path: figures.append(figure))
    draw_curves(tmp_path / "x.png", scores, {"gpt2": guess}, NAMES)
    accuracy, macro_f1 = figures[0].axes
    dotted = [line for line in accuracy.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[[0, -1]].round().tolist() for line in dotted] == [[9, 180]]
    assert not [line for line in macro_f1.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [0.35, 1, 1])


def test_a_guess_is_described_with_what_it_leaves_open():
    guess = {"a": 2.0, "b": 0.5, "c": 0.01, "texts": 1800, "accuracy": 0.9, "misfit": 0.002}
    half = np.diff(binomtest(180, 200).proportion_ci(method="wilson")).item() / 2
    line = describe_guess("gpt2-nano", guess, 200)
    assert line.endswith(f"n^-0.50 + 0.0100; with 1,800 texts, accuracy 0.900 (± {half:.3f} by the test texts alone)")
    more = describe_guess("gpt2-nano", {**guess, "misfit": 0.02, "accuracy_low": 0.88, "accuracy_high": 0.91}, 200)
    assert "0.880 - 0.910, 95 % by the seeds; ±" in more
    assert more.endswith("rely on it less: the law is off by 0.020 at a measured size")


SIZES = np.array([50, 100, 250, 500, 1000])


@pytest.mark.parametrize("law", [(2, 0.5, 0), (0.8, 0.3, 0.05), (5, 0.9, 0.02)])
def test_law_of_exact_points_is_recovered(law):
    fitted = fit_power_law(SIZES, power_law(SIZES, *law), 1000)
    np.testing.assert_allclose(fitted, law, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(power_law(2000, *fitted), power_law(2000, *law), rtol=1e-4)


def test_law_is_found_through_the_noise_of_a_test():
    law, rng = (1.5, 0.5, 0.02), np.random.default_rng(0)
    guesses = []
    for _ in range(20):
        sizes = np.repeat(SIZES, 3)
        fitted = fit_power_law(sizes, rng.binomial(2000, power_law(sizes, *law)) / 2000, 2000)
        guesses.append(float(power_law(2000, *fitted)))
    assert abs(np.mean(guesses) - power_law(2000, *law)) < 0.003
    assert np.std(guesses) < 0.01


@pytest.mark.parametrize("errors", [[0.1] * 5, [0.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], [1.0] * 5, [0.2, 0, 0, 0, 0]])
def test_odd_errors_give_a_law_without_a_negative_parameter(errors):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        law = fit_power_law(SIZES, errors, 100)
    assert min(law) >= 0
    assert 0 <= power_law(2000, *law) <= max(errors) + 1e-3


def scores_by(law, seed, sizes=SIZES):
    return pd.DataFrame({"texts": sizes, "seed": seed, "accuracy": 1 - power_law(sizes, *law)})


def test_interval_is_of_the_seeds():
    """Of two seeds, three draws differ: the outer ones are each seed alone."""
    laws = (2, 0.5, 0), (3, 0.5, 0.01)
    guess = extrapolate(pd.concat([scores_by(law, seed) for seed, law in enumerate(laws)]), 1000)
    assert guess["texts"] == 2000
    assert guess["accuracy_low"] == pytest.approx(1 - power_law(2000, *laws[1]), abs=1e-4)
    assert guess["accuracy_high"] == pytest.approx(1 - power_law(2000, *laws[0]), abs=1e-4)
    assert guess["accuracy_low"] < guess["accuracy"] < guess["accuracy_high"]


def test_misfit_is_the_largest_gap_to_a_mean():
    assert extrapolate(scores_by((2, 0.5, 0), 0), 1000)["misfit"] < 1e-4
    texts, accuracies = [50, 100, 1000], [0.88, 0.88, 0.96]
    flat = [pd.DataFrame({"texts": texts, "seed": seed, "accuracy": accuracies}) for seed in (0, 1)]
    guess = extrapolate(pd.concat(flat), 1000)
    fitted = 1 - power_law(np.array(texts), guess["a"], guess["b"], guess["c"])
    assert guess["misfit"] == pytest.approx(max(abs(fitted - accuracies)))
    assert guess["misfit"] > 0.01


def test_a_law_that_expects_less_than_was_measured_is_no_guess():
    """Accuracy that fell and rose again: the best law is flat, at a mean below the last part's."""
    scores = pd.DataFrame({"texts": SIZES, "seed": 0, "accuracy": [0.9, 0.8, 0.8, 0.8, 0.9]})
    assert fit_power_law(scores["texts"], 1 - scores["accuracy"], 1000) is not None
    assert extrapolate(scores, 1000) is None


def test_one_seed_has_no_interval_and_two_sizes_no_law():
    law = (2, 0.5, 0)
    assert set(extrapolate(scores_by(law, 0), 1000)) == {"a", "b", "c", "texts", "accuracy", "misfit"}
    assert extrapolate(pd.concat([scores_by(law, 0, SIZES[:2])] * 2), 1000) is None

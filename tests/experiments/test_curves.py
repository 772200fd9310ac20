"""The learning curve: nested parts, scores and laws against closed forms, and what an interruption leaves."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import make_texts
from saved_models import LABELS, to_dataset
from sklearn.metrics import f1_score

from recipe.config import parse_arguments
from recipe.experiments.curves import (
    PowerLaw,
    contradicts,
    curve_table,
    describe_guess,
    draw_curves,
    extrapolate,
    fit_power_law,
    measure_curve,
    nested_order,
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
        self.arguments = parse_arguments(["--train_file", "x", "--output_dir", "x"])

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
    assert skipped == [{"texts": 6, "fraction": 0.1, "seed": 7, "lacks": ["technology"]}]
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


def test_a_part_of_the_same_size_may_be_given_otherwise(splits, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measure(splits, tmp_path, FakeRunner(splits, stop_at=4))
    measured, _ = measure(splits, tmp_path, fractions=[0.1, 0.501, 1.0])
    assert [point["fraction"] for point in measured] == [0.1, 0.501, 1.0] * 2
    summary = summarize(measured)
    of_gpt2 = summary[summary["name"] == "gpt2"]
    assert of_gpt2[["texts", "fraction", "seeds"]].to_numpy().tolist() == [[9, 0.1, 2], [45, 0.501, 2], [90, 1, 2]]
    assert "45 (50.1 %)" in curve_table(summary, NAMES)


def test_points_of_other_options_or_texts_are_measured_anew(splits, tmp_path):
    measure(splits, tmp_path)
    others = {"train": splits["test"], "test": splits["train"]}
    for settings, data in [({"learning_rate": 1}, splits), ({}, others)]:
        fit = FakeRunner(data)
        measure(data, tmp_path, fit, settings=settings)
        assert len(fit.calls) == 6


def test_summary_table_and_picture(splits, tmp_path):
    pytest.importorskip("matplotlib")
    measured, _ = measure(splits, tmp_path)
    measured[3].pop("tfidf")
    measured[0]["tfidf"]["accuracy"] = 0.3  # of one seed
    measured[0]["gpt2"]["accuracy"] = 0.4  # of 9 texts; the other seed's is 0.3
    summary = summarize(measured)
    first = summary[(summary["name"] == "gpt2") & (summary["texts"] == 9)].iloc[0]
    assert (first["seeds"], first["accuracy_mean"]) == (2, pytest.approx(0.35))
    assert first["accuracy_sd"] == pytest.approx(np.std([0.3, 0.4], ddof=1))
    lines = curve_table(summary, NAMES).splitlines()
    assert lines[1].split()[:5] == ["9", "(10", "%)", "0.350", "±"]
    assert "0.300" in lines[1]  # of one seed: no sd
    json.dumps(measured)
    errors = [{**point, "error": 1 - point["gpt2"]["accuracy"]} for point in measured]
    guess = extrapolate(errors, 30)
    assert f"with 180 texts, accuracy {guess['accuracy']:.3f} (" in describe_guess("gpt2-nano", guess, 2)
    assert "rely on it less" in describe_guess("gpt2-nano", {**guess, "misfit": 0.02}, 2)
    assert "rely on it less" not in describe_guess("gpt2-nano", {**guess, "misfit": 0.002}, 2)
    worse = {**guess, "accuracy": 0.9, "measured": 0.972}
    assert contradicts(worse)
    assert not contradicts({**worse, "accuracy": 0.97})
    message = "no estimate, since no power law fits: 0.972 was measured, and the one that fits best expects 0.900 of 180 texts"
    assert describe_guess("gpt2-nano", worse, 2).endswith(message)
    accuracy, macro_f1 = draw_curves(measured, {"gpt2": guess}, NAMES, "a $title$").axes
    dotted = [line for line in accuracy.lines if line.get_linestyle() == ":"]
    assert [line.get_xdata()[[0, -1]].round().tolist() for line in dotted] == [[9, 180]]
    assert not [line for line in macro_f1.lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [0.35, 1, 1])


SIZES = np.array([50, 100, 250, 500, 1000])


@pytest.mark.parametrize("law", [PowerLaw(2, 0.5, 0), PowerLaw(0.8, 0.3, 0.05), PowerLaw(5, 0.9, 0.02)])
def test_law_of_exact_points_is_recovered(law):
    fitted = fit_power_law(SIZES, law(SIZES), 1000)
    np.testing.assert_allclose([fitted.a, fitted.b, fitted.c], [law.a, law.b, law.c], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(fitted(2000), law(2000), rtol=1e-4)


def test_law_is_found_through_the_noise_of_a_test():
    law, rng = PowerLaw(1.5, 0.5, 0.02), np.random.default_rng(0)
    guesses = []
    for _ in range(20):
        sizes = np.repeat(SIZES, 3)
        guesses.append(float(fit_power_law(sizes, rng.binomial(2000, law(sizes)) / 2000, 2000)(2000)))
    assert abs(np.mean(guesses) - law(2000)) < 0.003
    assert np.std(guesses) < 0.01


@pytest.mark.parametrize("errors", [[0.1] * 5, [0.0] * 5, [0.1, 0.2, 0.3, 0.4, 0.5], [1.0] * 5, [0.2, 0, 0, 0, 0]])
def test_odd_errors_give_a_law_without_a_negative_parameter(errors):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        law = fit_power_law(SIZES, errors, 100)
    assert min(law.a, law.b, law.c) >= 0
    assert 0 <= law(2000) <= max(errors) + 1e-3


def points_of(law, seed, sizes=SIZES):
    return [{"texts": int(n), "seed": seed, "error": float(law(n))} for n in sizes]


def test_interval_is_of_the_seeds():
    """Of two seeds, three draws differ: the outer ones are each seed alone."""
    laws = PowerLaw(2, 0.5, 0), PowerLaw(3, 0.5, 0.01)
    points = [point for seed, law in enumerate(laws) for point in points_of(law, seed)]
    guess = extrapolate(points, 1000)
    assert guess["texts"] == 2000
    assert guess["accuracy_low"] == pytest.approx(1 - laws[1](2000), abs=1e-4)
    assert guess["accuracy_high"] == pytest.approx(1 - laws[0](2000), abs=1e-4)
    assert guess["accuracy_low"] < guess["accuracy"] < guess["accuracy_high"]


def test_misfit_is_the_largest_gap_to_a_mean():
    law = PowerLaw(2, 0.5, 0)
    assert extrapolate(points_of(law, 0), 1000)["misfit"] < 1e-4
    flat = [
        {"texts": n, "seed": seed, "error": e} for seed in (0, 1) for n, e in [(50, 0.12), (100, 0.12), (1000, 0.04)]
    ]
    guess = extrapolate(flat, 1000)
    fitted = PowerLaw(guess["a"], guess["b"], guess["c"])
    assert guess["misfit"] == pytest.approx(max(abs(fitted(n) - e) for n, e in [(50, 0.12), (100, 0.12), (1000, 0.04)]))
    assert guess["misfit"] > 0.01
    assert guess["measured"] == pytest.approx(0.96)


def test_one_seed_has_no_interval_and_two_sizes_no_law():
    law = PowerLaw(2, 0.5, 0)
    assert set(extrapolate(points_of(law, 0), 1000)) == {"a", "b", "c", "texts", "accuracy", "measured", "misfit"}
    assert extrapolate(points_of(law, 0, SIZES[:2]) * 2, 1000) is None
    assert extrapolate([], 1000) is None

import builtins

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import precision_score, recall_score

from recipe.data.tokenization import Coverage
from recipe.evaluation.report import Measurement
from recipe.evaluation.run_figures import (
    NAMES,
    draw_length,
    draw_precision_recall,
    draw_run,
    draw_training,
    save_run_figures,
)
from recipe.hub.card_file import PICTURES

LOG = [
    {"step": 10, "epoch": 0.5, "loss": 0.9},
    {"step": 20, "epoch": 1.0, "loss": 0.7},
    {"step": 20, "epoch": 1.0, "eval_loss": 0.6, "eval_accuracy": 0.8, "eval_macro_f1": 0.7},
    {"step": 40, "epoch": 2.0, "eval_loss": 0.5, "eval_accuracy": 0.9, "eval_macro_f1": 0.85},
    {"step": 40, "epoch": 2.0, "train_runtime": 3.0},
]


def measured(num_labels, texts=400, **settings):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, num_labels, texts), rng.normal(size=(texts, num_labels)).astype(np.float32)
    logits[np.arange(texts), labels] += 2
    coverage = Coverage.of(rng.integers(1, 300, texts), 256)
    return Measurement([f"label {i}" for i in range(num_labels)], labels, logits, coverage=coverage, **settings)


def test_a_run_leaves_its_pictures_and_none_of_an_earlier_one(tmp_path):
    save_run_figures(tmp_path, measured(2), LOG)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"training", "confusion_matrix", "reliability", "precision_recall", "length"}
    for path in (tmp_path / "figures").iterdir():
        image = np.asarray(Image.open(path).convert("L"))
        assert image.shape[0] > 300
        assert (image < 250).mean() > 0.01
    save_run_figures(tmp_path, measured(3), LOG)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == names - {"precision_recall"}


def test_training_is_drawn_by_step_with_epochs_on_top():
    figure = draw_training(LOG)
    losses, validation = figure.axes
    assert [line.get_xydata().tolist() for line in losses.lines] == [[[10, 0.9], [20, 0.7]], [[20, 0.6], [40, 0.5]]]
    assert validation.lines[0].get_ydata().tolist() == [0.8, 0.9]
    figure.draw_without_rendering()
    (epochs,) = losses.child_axes
    assert np.divide(losses.get_xlim(), 20) == pytest.approx(epochs.get_xlim())


def test_the_threshold_lies_on_its_precision_and_recall():
    scores, axes = measured(2, threshold=0.8), Figure().subplots()
    draw_precision_recall(axes, scores)
    (dot,) = (line for line in axes.lines if line.get_label() == "threshold 0.8")
    predicted = scores.probabilities[:, 1] >= 0.8
    wanted = [score(scores.labels, predicted) for score in (recall_score, precision_score)]
    assert dot.get_xydata()[0].tolist() == pytest.approx(wanted)


def test_each_text_is_in_one_bin_of_lengths():
    scores, axes = measured(3), Figure().subplots()
    draw_length(axes, scores)
    counts = [int(text.get_text()) for text in axes.texts]
    assert len(counts) == 8
    assert sum(counts) == 400
    means = [float(bar.lines[0].get_ydata()[0]) for bar in axes.containers]
    right = np.average(means, weights=counts)
    assert right == pytest.approx((scores.predictions == scores.labels).mean())


@pytest.mark.parametrize(("texts", "log"), [(1, []), (2, LOG[:1]), (30, LOG[2:])])
def test_small_tests_and_short_runs_are_drawn(texts, log):
    figures = draw_run(measured(2, texts), log)
    for figure in figures.values():
        figure.draw_without_rendering()
    assert ("training" in figures) == bool(log)


def test_the_card_knows_every_picture():
    assert set(PICTURES) == set(NAMES)


def test_without_matplotlib_a_run_says_how_to_get_it(tmp_path, monkeypatch, caplog):
    real = builtins.__import__

    def without(name, *args, **keywords):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    save_run_figures(tmp_path, measured(2), LOG)
    assert "no pictures: they need matplotlib" in caplog.text
    assert list(tmp_path.iterdir()) == []

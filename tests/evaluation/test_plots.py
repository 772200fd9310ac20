"""Pictures of evaluate_model.py and of runs: files that hold something, and what they say."""

import sys

import numpy as np
import pytest
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from PIL import Image
from sklearn.metrics import precision_score, recall_score

from recipe.data.tokenization import Coverage
from recipe.errors import RecipeError
from recipe.evaluation.plots import (
    PLOT_FORMATS,
    draw_accuracies,
    draw_confusion,
    draw_length,
    draw_precision_recall,
    draw_reliability,
    draw_run,
    draw_training,
    require_matplotlib,
    save_plot,
    save_run_figures,
)
from recipe.evaluation.report import PICTURES, Measurement

figures = pytest.importorskip("matplotlib.figure")


def measured(num_labels, texts, **kwargs):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, num_labels, texts), rng.normal(size=(texts, num_labels)).astype(np.float32)
    logits[np.arange(texts), labels] += 2
    names = [f"a long name that $holds_{i}$ odd signs 漢" for i in range(num_labels)]
    return Measurement(names, labels, logits, **kwargs)


@pytest.mark.parametrize("suffix", PLOT_FORMATS)
def test_a_picture_of_twenty_labels(tmp_path, suffix):
    scores = measured(20, 400, temperature=1.5)
    words = [f"word{label}" for label in scores.labels]
    scores.add_baselines(Dataset.from_dict({"text": words, "label": scores.labels}), words, "none")
    save_plot(tmp_path / f"x{suffix}", scores, "a model of $many$ labels")
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]
    content = (tmp_path / f"x{suffix}").read_bytes()
    assert content.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    if suffix == ".png":
        image = np.asarray(Image.open(tmp_path / "x.png").convert("L"))
        assert image.shape[0] > 900
        assert (image < 250).mean() > 0.05


@pytest.mark.parametrize("num_labels", [2, 70])
def test_one_text_without_baselines(tmp_path, num_labels):
    save_plot(tmp_path / "x.png", measured(num_labels, 1), "one")
    assert (tmp_path / "x.png").stat().st_size > 5000


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("num_labels", [2, 8, 40])
def test_nothing_is_cut_or_covered(tmp_path, monkeypatch, num_labels):
    drawn = {}
    monkeypatch.setattr("recipe.evaluation.plots.save_figure", lambda figure, path: drawn.setdefault(path.stem, figure))
    scores = measured(num_labels, 300, temperature=1.5, coverage=Coverage(np.arange(1, 301), 256))
    words = [f"word{label}" for label in scores.labels]
    scores.add_baselines(Dataset.from_dict({"text": words, "label": scores.labels}), words, "none")
    save_plot(tmp_path / "all.png", scores, "a model")
    save_run_figures(tmp_path, scores, LOG)
    assert len(drawn) == (6 if num_labels == 2 else 5)
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        needed, pixel = figure.get_tightbbox(), 1 / figure.dpi
        assert min(needed.x0, needed.y0) > -pixel, name
        assert np.all([needed.x1, needed.y1] < figure.get_size_inches() + pixel), name
        labels = [axes.xaxis.label.get_window_extent() for axes in figure.findobj(Axes)]
        legends = [legend.get_window_extent() for legend in figure.findobj(Legend)]
        assert not [1 for legend in legends for label in labels if label.width and legend.overlaps(label)], name
    lowest = min(axes.get_tightbbox().y0 for axes in drawn["all"].findobj(Axes)[1:])
    assert lowest < 0.1 * drawn["all"].bbox.height  # no corner is blank


def test_counts_curves_and_accuracies_are_drawn():
    scores = measured(3, 200, temperature=2.0)
    scores.add_baselines(Dataset.from_dict({"text": ["some words"] * 3, "label": [0, 1, 2]}), ["some"] * 200, "none")
    axes = figures.Figure().subplots(1, 3)
    draw_confusion(axes[0], scores, side=6)
    counts = [int(text.get_text()) for text in axes[0].texts]
    assert sum(counts) == 200
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["a long name t...igns 漢"] * 3
    draw_reliability(axes[1], scores)
    shown = [text.get_text() for text in axes[1].get_legend().get_texts()][1:]  # after the diagonal's
    assert shown[0] == f"before calibration, ECE {scores.scores['ece_uncalibrated']:.3f}"
    assert shown[1] == f"after, ECE {scores.scores['ece']:.3f}"
    draw_accuracies(axes[2], scores)
    assert [text.get_text() for text in axes[2].texts][-1] == f"{scores.scores['accuracy']:.3f}"
    assert axes[2].get_yticklabels()[-1].get_text() == "GPT-2"


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        RecipeError, match=r"plot_file needs matplotlib .*: pip install 'gpt2-classifier-recipe\[plots\]'"
    ):
        require_matplotlib()


LOG = [
    {"step": 10, "epoch": 0.5, "loss": 0.9},
    {"step": 20, "epoch": 1.0, "loss": 0.7},
    {"step": 20, "epoch": 1.0, "eval_loss": 0.6, "eval_accuracy": 0.8, "eval_macro_f1": 0.7},
    {"step": 40, "epoch": 2.0, "eval_loss": 0.5, "eval_accuracy": 0.9, "eval_macro_f1": 0.85},
    {"step": 40, "epoch": 2.0, "train_runtime": 3.0},
]


def measured_run(num_labels, texts=400, **settings):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, num_labels, texts), rng.normal(size=(texts, num_labels)).astype(np.float32)
    logits[np.arange(texts), labels] += 2
    coverage = Coverage(rng.integers(1, 300, texts), 256)
    return Measurement([f"label {i}" for i in range(num_labels)], labels, logits, coverage=coverage, **settings)


def test_a_run_leaves_its_pictures_and_none_of_an_earlier_one(tmp_path):
    save_run_figures(tmp_path, measured_run(2), LOG)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == set(PICTURES)
    for path in (tmp_path / "figures").iterdir():
        image = np.asarray(Image.open(path).convert("L"))
        assert image.shape[0] > 300
        assert (image < 250).mean() > 0.01
    save_run_figures(tmp_path, measured_run(3), LOG)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == names - {"precision_recall"}


def test_training_is_drawn_by_epoch():
    losses, validation = draw_training(LOG).axes
    assert [line.get_xydata().tolist() for line in losses.lines] == [[[0.5, 0.9], [1, 0.7]], [[1, 0.6], [2, 0.5]]]
    assert validation.lines[0].get_ydata().tolist() == [0.8, 0.9]


def test_the_threshold_lies_on_its_precision_and_recall():
    scores, axes = measured_run(2, threshold=0.8), Figure().subplots()
    draw_precision_recall(axes, scores)
    (dot,) = (line for line in axes.lines if line.get_label() == "threshold 0.8")
    predicted = scores.probabilities[:, 1] >= 0.8
    wanted = [score(scores.labels, predicted) for score in (recall_score, precision_score)]
    assert dot.get_xydata()[0].tolist() == pytest.approx(wanted)


def test_each_text_is_in_one_bin_of_lengths():
    scores, axes = measured_run(3), Figure().subplots()
    draw_length(axes, scores)
    counts = [int(text.get_text()) for text in axes.texts]
    assert len(counts) == 8
    assert sum(counts) == 400
    means = [float(bar.lines[0].get_ydata()[0]) for bar in axes.containers]
    right = np.average(means, weights=counts)
    assert right == pytest.approx((scores.predictions == scores.labels).mean())


@pytest.mark.parametrize(("texts", "log"), [(1, []), (2, LOG[:1]), (30, LOG[2:])])
def test_small_tests_and_short_runs_are_drawn(texts, log):
    figures = draw_run(measured_run(2, texts), log)
    for figure in figures.values():
        figure.draw_without_rendering()
    assert ("training" in figures) == bool(log)


def test_without_matplotlib_a_run_says_how_to_get_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    save_run_figures(tmp_path, measured_run(2), LOG)
    assert "no pictures: they need matplotlib" in caplog.text
    assert list(tmp_path.iterdir()) == []

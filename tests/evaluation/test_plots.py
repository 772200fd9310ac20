import sys

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from recipe.errors import RecipeError
from recipe.evaluation.plots import (
    PLOT_FORMATS,
    draw_accuracies,
    draw_confusion,
    draw_reliability,
    require_matplotlib,
    save_plot,
)
from recipe.evaluation.report import Measurement

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
    with pytest.raises(RecipeError, match=r"plot_file needs matplotlib: pip install 'gpt2-classifier-recipe\[plots\]'"):
        require_matplotlib()

import shlex

import numpy as np
import pandas as pd
import pytest

from recipe.config import parse_arguments
from recipe.experiments.sweep_results import best_and_runner_up, describe_spread, draw_sweep, spread, train_command

TABLE = pd.DataFrame(
    {
        "learning_rate": [1e-3, 1e-3, 1e-2, 1e-4, 1.0],
        "depth": [1, 1, 1, 2, 2],
        "seed": [1, 2, 1, 1, 1],
        "loss": [0.2, 0.3, 0.4, 0.1, np.nan],
        "epochs": [3, 3, 1, 2, 0],
        "state": ["complete", "complete", "pruned", "pruned", "diverged"],
    }
)
NAMES = ["learning_rate", "depth", "seed"]


def test_the_runner_up_is_another_setting_not_another_seed():
    best, runner_up = best_and_runner_up(TABLE, NAMES)
    assert (best.name, runner_up.name) == (0, 2)
    assert best_and_runner_up(TABLE[:2], NAMES)[1] is None
    assert best_and_runner_up(TABLE.iloc[[0, 4]], NAMES)[1] is None


def as_runs(losses, accuracies=None):
    pairs = zip(losses, losses if accuracies is None else accuracies, strict=True)
    return [{"loss": loss, "accuracy": accuracy} for loss, accuracy in pairs]


def test_the_interval_holds_one_more_run_in_95_of_100():
    rng = np.random.default_rng(0)
    draws = rng.normal(10, 2, size=(3000, 4))
    bounds = [spread(as_runs(losses[:3])) for losses in draws]
    inside = [found["low"] <= losses[3] <= found["high"] for found, losses in zip(bounds, draws, strict=True)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    found = spread(as_runs([1.0, 2.0, 4.0], [0.5, 0.5, 0.8]))
    assert found["loss"] == pytest.approx(7 / 3)
    assert found["loss_sd"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert found["accuracy_sd"] == pytest.approx(np.std([0.5, 0.5, 0.8], ddof=1))


@pytest.mark.parametrize(
    ("losses", "runner_up", "told"),
    [
        ([0.10, 0.11, 0.12], 0.12, "lies within 0.0603 to 0.1597"),
        ([0.10, 0.11, 0.12], 0.2, "single runs of the best setting would: worse."),
        ([0.10, 0.11, 0.12], 0.01, "single runs of the best setting would: a better one."),
        ([0.10, 0.11, 0.12], None, "no other setting"),
        ([0.1], 0.2, "two or more have a spread"),
    ],
)
def test_noise_is_told_from_a_difference(losses, runner_up, told):
    other = None if runner_up is None else {"loss": runner_up}
    assert told in describe_spread(spread(as_runs(losses)), other)


def test_seeds_that_diverged_are_told_beside_the_others():
    lost = {"diverged": "the loss is nan at step 3"}
    figures = spread([*as_runs([0.1, 0.2]), lost])
    assert figures == {**spread(as_runs([0.1, 0.2])), "diverged": 1}
    told = describe_spread(figures, lost)
    assert told.startswith("Of 3 other seeds, 1 diverged with the best setting: take a lower rate.\n")
    assert "with 2 other seeds: validation loss 0.1500" in told
    assert told.endswith("The runner-up diverged: the loss is nan at step 3.")
    assert (
        describe_spread(spread([lost]), None)
        == "Of 1 other seeds, 1 diverged with the best setting: take a lower rate."
    )


def test_the_command_replaces_what_was_swept():
    words = [
        "--train_file",
        "a b.csv",
        "--learning_rate",
        "1e-3",
        "--trainable",
        "head",
        "x.*",
        "--seed=7",
        "--bf16",
        "true",
    ]
    command = train_command(
        [*words, "--hub_token", "hf_x", "--hub-token=hf_x", "--overwrite_output_dir"],
        {"learning_rate": 3e-05, "depth": 2},
        "runs/best",
    )
    assert "hf_x" not in command
    python, script, *given = shlex.split(command)
    assert (python, script) == ("python", "scripts/train.py")
    model_args, data_args, training_args = parse_arguments(given)
    assert model_args.trainable == ["last_blocks:2"]
    assert data_args.train_file == ["a b.csv"]
    assert (training_args.learning_rate, training_args.seed, training_args.bf16) == (3e-05, 7, True)
    assert (training_args.output_dir, training_args.overwrite_output_dir) == ("runs/best", False)
    assert given.count("--learning_rate") == given.count("--trainable") == 1


@pytest.mark.parametrize("figures", [{}, {"runs": 0, "diverged": 2}])
def test_a_picture_without_other_seeds_has_no_mean(tmp_path, monkeypatch, figures):
    drawn = []
    monkeypatch.setattr("recipe.experiments.sweep_results.save_figure", lambda figure, path: drawn.append(figure))
    draw_sweep(tmp_path / "sweep.png", TABLE, figures)
    assert not drawn[0].axes[0].containers


def test_pruned_trials_are_hollow(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("recipe.experiments.sweep_results.save_figure", lambda figure, path: figures.append(figure))
    draw_sweep(tmp_path / "sweep.png", TABLE, spread(as_runs([0.2, 0.3], [0.9, 0.9])))
    (axes,) = figures[0].axes
    dots = [dot for dot in axes.collections if dot.get_label() != "_nolegend_" and hasattr(dot, "get_sizes")]
    hollow = sum(len(dot.get_offsets()) for dot in dots if len(dot.get_facecolors()) == 0)
    filled = sum(len(dot.get_offsets()) for dot in dots if len(dot.get_facecolors()))
    assert (filled, hollow) == (2, 2)
    assert sorted(text.get_text() for text in axes.texts) == ["1", "2"]
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "x") == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["1 block trains", "2 blocks train"]

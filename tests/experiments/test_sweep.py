"""The sweep: its trials, halving's decisions, and what it makes of an interruption."""

import json
import math
import shlex
import shutil

import numpy as np
import optuna
import pandas as pd
import pytest
from conftest import FAST, make_texts, tiny_folder
from optuna.trial import TrialState
from saved_models import LABELS, cut

from recipe.config import parse_arguments
from recipe.data.dataset import TextSplits, load_splits
from recipe.errors import RecipeError
from recipe.experiments.sweep import (
    Halving,
    Sweep,
    best_and_runner_up,
    compare_best,
    describe_spread,
    draw_sweep,
    hash_texts,
    open_study,
    plan_trials,
    spread,
    tabulate,
    train_command,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "my.csv"
    make_texts(90, ["sport", "medicine"]).to_csv(path, index=False)
    return path


def make_sweep(data, tmp_path, space, *fields):
    words = ["--model_name_or_path", str(tiny_folder()), "--train_file", str(data), "--output_dir", str(tmp_path)]
    words += [*FAST, "--num_train_epochs", "4", "--feature_cache_dir", str(tmp_path / "cache"), *fields]
    arguments = parse_arguments(words)
    return Sweep(arguments, load_splits(arguments[1]), space, str(tmp_path / "scratch"))


def orders(values, space):
    return [space[name].index(value) for name, value in values.items()]


def searched(data, tmp_path, space, *fields):
    """A sweep of all combinations in their order, and its study."""
    sweep = make_sweep(data, tmp_path, space, *fields)
    trials, plan = plan_trials(space, None, 0)
    study = open_study(tmp_path / "journal", sorted(plan, key=lambda values: orders(values, space)), {})
    sweep.search(study, trials)
    return sweep, study


def test_halving_keeps_the_better_half_and_spares_the_last_step():
    """By the rule of Li et al. (2018), without promotion of paused trials: at each rung, the best half so far goes on."""
    values, ran = np.random.default_rng(0).permutation(40).tolist(), []
    study = optuna.create_study(pruner=Halving(10, 40, 2), sampler=optuna.samplers.RandomSampler())

    def objective(trial):
        for step in (10, 20, 30, 40):
            trial.report(values[trial.number], step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return values[trial.number]

    study.optimize(objective, n_trials=len(values))
    rungs = {10: [], 20: []}
    for value in values:
        for step, seen in rungs.items():
            seen.append(value)
            if value > sorted(seen)[max(len(seen) // 2, 1) - 1]:
                ran.append(step)
                break
        else:
            ran.append(40)
    assert [trial.last_step for trial in study.trials] == ran
    assert all((trial.state == TrialState.COMPLETE) == (trial.last_step == 40) for trial in study.trials)


def test_trials_of_all_depths_share_one_cache_and_weak_ones_stop(data, tmp_path):
    space = {"learning_rate": [1e-2, 3e-2, 5.0], "depth": [0, 2]}
    sweep, study = searched(data, tmp_path, space)
    table = tabulate(study.trials, sweep.steps_per_epoch)
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 2
    assert table["epochs"].sum() < 4 * len(table)
    assert table.iloc[0]["loss"] == study.best_value == table.loc[table["state"] == "complete", "loss"].min()
    assert set(table.loc[table["learning_rate"] == 5.0, ["state", "epochs"]].itertuples(index=False)) == {("pruned", 1)}
    best, runner_up = best_and_runner_up(table, space)
    assert (best["learning_rate"], best["depth"]) != (runner_up["learning_rate"], runner_up["depth"])


def test_a_rate_that_diverges_ends_its_trial_alone(data, tmp_path):
    sweep, study = searched(data, tmp_path, {"learning_rate": [1e-2, 1e38]}, "--max_grad_norm", "0")
    table = tabulate(study.trials, sweep.steps_per_epoch)
    assert table["state"].tolist() == ["complete", "diverged"]
    assert best_and_runner_up(table, ["learning_rate"])[1] is None


def test_where_all_diverge_a_second_search_says_so_too(data, tmp_path):
    sweep = make_sweep(data, tmp_path, {"learning_rate": [1e38]}, "--max_grad_norm", "0")
    study = open_study(tmp_path / "journal", [{"learning_rate": 1e38}], {})
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"no trial ran to its end: give lower learning_rates"):
            sweep.search(study, 1)
    assert len(study.trials) == 1


def test_other_errors_are_not_called_divergence(data, tmp_path, monkeypatch):
    sweep = make_sweep(data, tmp_path, {"learning_rate": [1e-3]})
    study = open_study(tmp_path / "journal", [{"learning_rate": 1e-3}], {})
    monkeypatch.setattr(sweep, "objective", lambda metrics: int("no number"))
    with pytest.raises(ValueError, match="no number"):
        sweep.search(study, 1)


def test_a_validation_loss_that_is_no_number_is_no_result(data, tmp_path, monkeypatch):
    sweep, study = searched(data, tmp_path, {"learning_rate": [1e-3]}, "--num_train_epochs", "1")
    monkeypatch.setattr(sweep, "kept_epoch", lambda: {"loss": math.nan, "accuracy": 0.5})
    assert sweep.measure(study, {"seed": 7, "learning_rate": 1e-3}) == {"diverged": "the validation loss is nan"}


def test_windows_of_the_base_are_refused(data, tmp_path):
    model = shutil.copytree(tiny_folder(), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "window": 16, "window_overlap": 4}))
    fields = ["--model_name_or_path", str(model)]
    with pytest.raises(RecipeError, match="experiments truncate them: pass --window 0"):
        make_sweep(data, tmp_path, {"learning_rate": [1e-3]}, *fields)
    make_sweep(data, tmp_path, {"learning_rate": [1e-3]}, *fields, "--window", "0")


def test_a_seed_that_diverges_is_a_result(data, tmp_path):
    space = {"learning_rate": [1e-2, 2e-2]}
    sweep, study = searched(data, tmp_path, space, "--max_grad_norm", "0", "--num_train_epochs", "1")
    table = tabulate(study.trials, sweep.steps_per_epoch)
    table["learning_rate"] = table["learning_rate"].astype(float)
    table.iloc[0, table.columns.get_loc("learning_rate")] = 1e38  # as if this trial alone had not diverged
    figures, runner_up = compare_best(sweep, study, table, 2)
    assert figures == {"runs": 0, "diverged": 2}
    assert math.isfinite(runner_up["loss"])
    kept = study.user_attrs['{"learning_rate": 1e+38, "seed": 43}']
    assert kept.keys() == {"diverged"}


def test_a_validation_loss_that_is_no_number_is_a_divergence(data, tmp_path):
    sweep = make_sweep(data, tmp_path, {"learning_rate": [1e-2]})
    study = optuna.create_study()
    sweep.trial = sweep.trainer._trial = study.ask()
    with pytest.raises(optuna.TrialPruned):
        sweep.objective({"eval_loss": math.nan})
    assert sweep.trial.user_attrs == {"diverged": "the validation loss is nan"}


@pytest.mark.parametrize("keeps_best", [True, False])
def test_a_trial_is_measured_on_the_model_that_is_kept(data, tmp_path, keeps_best):
    space = {"learning_rate": [0.3]}
    sweep, study = searched(data, tmp_path, space, "--load_best_model_at_end", str(keeps_best).lower())
    losses = [row["eval_loss"] for row in sweep.trainer.state.log_history if "eval_loss" in row]
    assert len(losses) == 4
    assert min(losses) < losses[-1]
    assert study.best_value == (min(losses) if keeps_best else losses[-1])
    assert sweep.kept_epoch()["loss"] == study.best_value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--metric_for_best_model", "accuracy"], "metric_for_best_model is accuracy: take loss"),
        (["--greater_is_better", "true"], "greater_is_better is True: take false"),
        (["--eval_strategy", "steps", "--save_strategy", "steps"], "eval_strategy is steps: take epoch"),
    ],
)
def test_another_choice_of_the_best_model_is_refused(data, tmp_path, fields, message):
    with pytest.raises(RecipeError, match=message):
        make_sweep(data, tmp_path, {"learning_rate": [1e-3]}, *fields)
    make_sweep(data, tmp_path, {"learning_rate": [1e-3]}, *fields, "--load_best_model_at_end", "false")


def test_trials_of_one_epoch_share_the_cache_where_a_trunk_is_left(data, tmp_path):
    """Depth 4 trains every block, so its trials run the complete model."""
    space = {"learning_rate": [1e-3], "depth": [1, 4]}
    _, study = searched(data, tmp_path, space, "--num_train_epochs", "1", "--trainable", "all")
    assert len(study.get_trials(states=[TrialState.COMPLETE, TrialState.PRUNED])) == 2
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 1


def test_adapters_without_a_block_are_refused_before_the_trunk_runs(data, tmp_path):
    pytest.importorskip("peft")
    with pytest.raises(RecipeError, match="lora_r: trainable names no block's matrices"):
        make_sweep(data, tmp_path, {"learning_rate": [1e-3], "depth": [2, 0]}, "--lora_r", "2")


def test_an_interrupted_sweep_runs_what_is_missing(data, tmp_path, monkeypatch):
    space = {"learning_rate": [1e-3, 2e-3, 3e-3]}
    _, plan = plan_trials(space, None, 0)
    sweep = make_sweep(data, tmp_path, space, "--num_train_epochs", "1")
    with monkeypatch.context() as patched:
        calls = []

        def killed_at_the_second(trial):
            calls.append(trial)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return Sweep.make_model(sweep, trial)

        patched.setattr(sweep.trainer, "model_init", killed_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            sweep.search(open_study(tmp_path / "journal", plan, {"a": 1}), 3)
    with pytest.raises(RecipeError, match="an unfinished sweep with another a"):
        open_study(tmp_path / "journal", plan, {"a": 2})
    study = open_study(tmp_path / "journal", plan, {"a": 1})
    first = study.trials[0]
    sweep.search(study, 3)
    done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    assert sorted(trial.params["learning_rate"] for trial in done) == [1e-3, 2e-3, 3e-3]
    assert study.trials[0] == first
    assert sweep.measure(study, {"learning_rate": 1e-3, "seed": 5}) == pytest.approx(
        open_study(tmp_path / "journal", plan, {"a": 1}).user_attrs['{"learning_rate": 0.001, "seed": 5}']
    )


def test_a_range_that_goes_on_draws_no_rate_twice(data, tmp_path):
    space = {"learning_rate": (1e-3, 1e-2)}
    sweep = make_sweep(data, tmp_path, space, "--num_train_epochs", "1", "--max_train_samples", "16")
    study = open_study(tmp_path / "journal", [], {})
    for trials in (1, 2, 3):
        sweep.search(study, trials)
    assert len({trial.params["learning_rate"] for trial in study.trials}) == 3


def test_lists_are_combined_and_ranges_divided_evenly():
    count, plan = plan_trials({"learning_rate": [1e-3, 1e-2], "depth": [0, 1, 2]}, None, 0)
    assert count == 6
    assert {(values["learning_rate"], values["depth"]) for values in plan} == {
        (rate, depth) for rate in (1e-3, 1e-2) for depth in (0, 1, 2)
    }
    count, plan = plan_trials({"learning_rate": (1e-4, 1e-2), "depth": [1, 2]}, 12, 0)
    rates = sorted(values["learning_rate"] for values in plan)
    assert (count, len(rates), rates[0], rates[-1]) == (12, 10, 1e-4, 1e-2)
    np.testing.assert_allclose(np.diff(np.log(rates)), np.log(100) / 9, rtol=0.02)
    assert rates != [values["learning_rate"] for values in plan]


def test_another_text_or_label_has_another_hash():
    frame = make_texts(40, LABELS)
    one_text, one_label = frame.copy(), frame.copy()
    one_text.loc[0, "text"] += "!"
    one_label.loc[0, "label"] = next(label for label in LABELS if label != frame.loc[0, "label"])
    frames = (frame, frame.copy(), one_text, one_label)
    first, again, *others = (hash_texts(TextSplits(cut(rows, LABELS))) for rows in frames)
    assert first == again
    assert len({first, *others}) == 3


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
    monkeypatch.setattr("recipe.experiments.sweep.save_figure", lambda figure, path: drawn.append(figure))
    draw_sweep(tmp_path / "sweep.png", TABLE, figures)
    assert not drawn[0].axes[0].containers


def test_pruned_trials_are_hollow(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("recipe.experiments.sweep.save_figure", lambda figure, path: figures.append(figure))
    draw_sweep(tmp_path / "sweep.png", TABLE, spread(as_runs([0.2, 0.3], [0.9, 0.9])))
    (axes,) = figures[0].axes
    dots = [dot for dot in axes.collections if dot.get_label() != "_nolegend_" and hasattr(dot, "get_sizes")]
    hollow = sum(len(dot.get_offsets()) for dot in dots if len(dot.get_facecolors()) == 0)
    filled = sum(len(dot.get_offsets()) for dot in dots if len(dot.get_facecolors()))
    assert (filled, hollow) == (2, 2)
    assert sorted(text.get_text() for text in axes.texts) == ["1", "2"]
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "x") == 1
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["1 block trains", "2 blocks train"]

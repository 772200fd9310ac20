"""The sweep: its trials, halving's decisions, and what it makes of an interruption."""

import json
import math
import shutil

import numpy as np
import optuna
import pytest
from conftest import FAST, make_texts, tiny_folder
from optuna.trial import TrialState

from recipe.config import parse_arguments
from recipe.data.dataset import load_splits
from recipe.errors import RecipeError
from recipe.experiments.sweep import Halving, Sweep, compare_best
from recipe.experiments.sweep_results import best_and_runner_up, tabulate
from recipe.experiments.sweep_study import open_study, plan_trials


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

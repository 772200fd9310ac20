"""The sweep: its trials are train.py's runs, halving's decisions, what it makes of an interruption, its script."""

import json
import shlex
import sys

import numpy as np
import optuna
import pytest
from conftest import FAST, ROOT, assert_one_line, assert_refused, make_texts, tiny_folder
from optuna.trial import TrialState

from recipe.config import parse_arguments
from recipe.data.dataset import load_splits
from recipe.errors import RecipeError
from recipe.experiments.sweep import Halving, Sweep, open_study, plan_trials
from recipe.experiments.sweep_results import best_and_runner_up, tabulate


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


def searched(data, tmp_path, space, *fields):
    sweep = make_sweep(data, tmp_path, space, *fields)
    trials, plan = plan_trials(space, None, 0)
    study = open_study(tmp_path / "journal", plan, {})
    sweep.fill_cache()
    sweep.search(study, trials)
    return sweep, study


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
    space = {"learning_rate": [1e-6, 1e-2, 3e-2], "depth": [0, 2]}
    sweep, study = searched(data, tmp_path, space)
    table = tabulate(study.trials, sweep.steps_per_epoch)
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 2
    assert table["epochs"].sum() < 4 * len(table)
    assert table.iloc[0]["loss"] == study.best_value == table.loc[table["state"] == "complete", "loss"].min()
    assert set(table.loc[table["learning_rate"] == 1e-6, "state"]) <= {"pruned", "complete"}
    best, runner_up = best_and_runner_up(table, space)
    assert (best["learning_rate"], best["depth"]) != (runner_up["learning_rate"], runner_up["depth"])


def test_a_rate_that_diverges_ends_its_trial_alone(data, tmp_path):
    sweep, study = searched(data, tmp_path, {"learning_rate": [1e-2, 1e38]}, "--max_grad_norm", "0")
    table = tabulate(study.trials, sweep.steps_per_epoch)
    assert table["state"].tolist() == ["complete", "diverged"]
    assert best_and_runner_up(table, ["learning_rate"])[1] is None


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


def test_the_script_finds_a_setting_that_train_py_confirms(data, tmp_path, run_here):
    """Its command, as printed, ends with the best trial's validation loss."""
    fields = ["--model_name_or_path", tiny_folder(), "--train_file", data, *FAST, "--num_train_epochs", "3"]
    command = ["python", ROOT / "scripts" / "sweep.py", "--output_dir", tmp_path / "a sweep", *fields]
    grid = ["--learning_rates", "1e-3", "1e-2", "--depths", "1", "2", "--dropouts", "0.1", "--seeds", "2"]
    result = run_here([*command, *grid], cwd=ROOT)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "a sweep" / "sweep.json").read_text())
    assert len(found["trials"]) == 4
    assert found["other_seeds"]["runs"] == 2
    assert "The best setting with 2 other seeds" in result.stdout
    assert (tmp_path / "a sweep" / "sweep.png").stat().st_size > 5000
    assert f"To train it: {found['command']}" in result.stdout
    python, *words = shlex.split(found["command"])
    assert python == "python"
    assert run_here([sys.executable, *words], cwd=ROOT).returncode == 0
    figures = json.loads((tmp_path / "a sweep" / "best" / "eval_results.json").read_text())
    assert figures["eval_loss"] == pytest.approx(found["best"]["loss"], abs=1e-5)
    assert figures["eval_accuracy"] == pytest.approx(found["best"]["accuracy"])
    assert_refused(run_here([*command, *grid], cwd=ROOT), "exists: give another output_dir")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rates", "1e-2:1e-3"], "learning_rates is 1e-2:1e-3: give numbers"),
        (["--learning_rates", "x"], "learning_rates is x"),
        (["--learning_rates", "0", "1e-3"], "learning_rates is 0 1e-3"),
        (["--dropouts", "1"], "dropout is 1.0: take a share"),
        (["--trial_seeds", "-1"], "trial_seeds is -1"),
        (["--seeds", "-1"], "seeds is -1: take a whole number from 0 up"),
        (["--halving", "1"], "halving is 1"),
        (["--learning_rat", "1"], "unknown field 'learning_rat'"),
    ],
)
def test_bad_options_are_one_line(data, tmp_path, run_here, words, message):
    command = ["python", ROOT / "scripts" / "sweep.py", "--output_dir", tmp_path / "out", "--train_file", data]
    assert_one_line(run_here([*command, *words]), message)
    assert not (tmp_path / "out").exists()

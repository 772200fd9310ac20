"""The sweep: its trials against Trainer's own losses, halving's decisions, and what it makes of an interruption."""

import math
import shlex

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, make_texts, tiny_folder

from recipe.config import parse_arguments
from recipe.data.dataset import load_splits
from recipe.errors import RecipeError
from recipe.experiments import sweep as module
from recipe.experiments.runs import Results, Runner
from recipe.experiments.sweep import (
    check_options,
    compare_best,
    describe_spread,
    draw_sweep,
    plan_trials,
    search,
    spread,
    train,
    train_command,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "my.csv"
    make_texts(90, ["sport", "medicine"]).to_csv(path, index=False)
    return path


def arguments_for(data, folder, *fields):
    words = ["--model_name_or_path", str(tiny_folder()), "--train_file", str(data), "--output_dir", str(folder)]
    return parse_arguments(
        [*words, *FAST, "--num_train_epochs", "4", "--feature_cache_dir", str(folder / "cache"), *fields]
    )


def runner_for(data, folder, *fields):
    arguments = arguments_for(data, folder, *fields)
    splits = load_splits(arguments[1])
    return Runner(arguments, {part: splits[part] for part in ("train", "validation")}, keep_head=True)


def in_order(space):
    """All combinations, the first name's values slowest."""
    _, plan = plan_trials(space, None, 0)
    return sorted(plan, key=lambda values: [space[name].index(value) for name, value in values.items()])


def searched(data, folder, space, *fields):
    """The table of all combinations, tried in their order; and the runner and its results."""
    runner, results, plan = runner_for(data, folder, *fields), Results(folder / "results.jsonl"), in_order(space)
    return search(runner, results, space, len(plan), plan), runner, results


class FakeRunner:
    """What `search` needs of a runner."""

    def __init__(self, folder):
        self.arguments = parse_arguments(["--train_file", "x", "--output_dir", str(folder), "--disable_tqdm", "true"])


def fake_train(losses_of, epochs=4, stop_at=None):
    """In place of `train`: a trial's losses are a function of its values; and the values that were trained."""
    calls = []

    def train(runner, values, goes_on):
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(values)
        losses, state = losses_of(values), "complete"
        for epoch in range(1, epochs):
            if not goes_on(epoch, losses[epoch - 1]):
                state = "pruned"
                break
        else:
            epoch = epochs
        figures = {"loss": losses[epoch - 1], "accuracy": 0.5, "epochs": epoch, "seconds": 1.0, "state": state}
        return {**figures, "reported": losses[: min(epoch, epochs - 1)]}

    return train, calls


def test_halving_keeps_the_better_half_and_spares_the_last_epoch(tmp_path, monkeypatch):
    """By the rule of Li et al. (2018), without promotion of paused trials: at each rung, the best half so far goes on."""
    values = np.random.default_rng(0).permutation(40).tolist()
    fake, calls = fake_train(lambda trial: [trial["seed"]] * 4)
    monkeypatch.setattr(module, "train", fake)
    plan, space = [{"seed": value} for value in values], {"seed": values}
    table = search(FakeRunner(tmp_path), Results(tmp_path / "x"), space, 40, plan).sort_values("trial")
    ran, rungs = [], {1: [], 2: []}
    for value in values:
        for epoch, seen in rungs.items():
            seen.append(value)
            if value > sorted(seen)[max(len(seen) // 2, 1) - 1]:
                ran.append(epoch)
                break
        else:
            ran.append(4)
    assert [call["seed"] for call in calls] == values
    assert table["epochs"].tolist() == ran
    assert ((table["state"] == "complete") == (table["epochs"] == 4)).all()


def test_an_interrupted_search_trains_what_is_missing_and_ends_as_one_that_went_through(tmp_path, monkeypatch):
    """A range beyond its plan, which Optuna's sampler chooses by the trials before."""
    space = {"learning_rate": (1e-4, 1e-1)}

    def losses_of(values):
        return [abs(math.log10(values["learning_rate"]) + 2.3) / epoch for epoch in (1, 2, 3, 4)]

    def run(name, stop_at=None):
        fake, calls = fake_train(losses_of, stop_at=stop_at)
        monkeypatch.setattr(module, "train", fake)
        trials, plan = plan_trials(space, 14, 0)
        return search(FakeRunner(tmp_path), Results(tmp_path / name), space, trials, plan), calls

    whole, calls = run("whole")
    assert len(calls) == whole["learning_rate"].nunique() == 14
    for stop_at in (4, 8):  # within the plan, and beyond it
        with pytest.raises(KeyboardInterrupt):
            run("parts", stop_at)
    table, calls = run("parts")
    assert len(calls) == 2
    pd.testing.assert_frame_equal(table, whole)


def test_trials_of_all_depths_share_one_cache_and_weak_ones_stop(data, tmp_path):
    space = {"learning_rate": [1e-2, 3e-2, 5.0], "depth": [0, 2]}
    table, *_ = searched(data, tmp_path, space)
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 2
    assert table["epochs"].sum() < 4 * len(table)
    assert table.iloc[0]["loss"] == table.loc[table["state"] == "complete", "loss"].min()
    assert set(table.loc[table["learning_rate"] == 5.0, ["state", "epochs"]].itertuples(index=False)) == {("pruned", 1)}


def test_a_rate_that_diverges_ends_its_trial_alone_and_a_seed_is_a_result(data, tmp_path):
    space = {"learning_rate": [1e-2, 1e38]}
    table, runner, results = searched(data, tmp_path, space, "--max_grad_norm", "0", "--num_train_epochs", "1")
    assert table["state"].tolist() == ["complete", "diverged"]
    figures = compare_best(runner, results, space, table.iloc[::-1], 1)  # as if it had not at the first seed
    assert figures == {"runs": 0, "diverged": 1}


def test_where_all_diverge_it_says_so(data, tmp_path):
    for _ in range(2):  # trained, and found again
        with pytest.raises(RecipeError, match=r"no trial ran to its end: give lower learning_rates"):
            searched(data, tmp_path, {"learning_rate": [1e38]}, "--max_grad_norm", "0")
    assert (tmp_path / "results.jsonl").read_text().count("diverged") == 1


def test_a_validation_loss_that_is_no_number_is_a_divergence(data, tmp_path, monkeypatch):
    runner = runner_for(data, tmp_path, "--num_train_epochs", "1")
    monkeypatch.setattr("recipe.training.steps.compute_metrics", lambda prediction: {"loss": math.nan, "accuracy": 0.5})
    found = train(runner, {"seed": 7, "learning_rate": 1e-3})
    assert (found["state"], found["loss"], found["reason"]) == ("diverged", None, "the validation loss is nan")


@pytest.mark.parametrize("keeps_best", [True, False])
def test_a_trial_is_measured_on_the_model_that_is_kept(data, tmp_path, keeps_best):
    runner = runner_for(data, tmp_path, "--load_best_model_at_end", str(keeps_best).lower())
    losses = []

    class Recorder(module.Validations):
        def on_evaluate(self, *given, **keywords):
            losses.append(keywords["metrics"]["eval_loss"])
            super().on_evaluate(*given, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Validations", Recorder)
        found = train(runner, {"learning_rate": 0.3})
    assert len(losses) == 4
    assert min(losses) < losses[-1]
    assert found["loss"] == (min(losses) if keeps_best else losses[-1])
    assert found["reported"] == (np.minimum.accumulate(losses) if keeps_best else np.array(losses))[:3].tolist()


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
        check_options(arguments_for(data, tmp_path, *fields), {})
    check_options(arguments_for(data, tmp_path, *fields, "--load_best_model_at_end", "false"), {})


def test_depths_that_cannot_train_are_refused(data, tmp_path):
    with pytest.raises(RecipeError, match="k is 5, but the model has 4 blocks"):
        check_options(arguments_for(data, tmp_path), {"depth": [1, 5]})
    with pytest.raises(RecipeError, match="lora_r adapts blocks, and depths has 0"):
        check_options(arguments_for(data, tmp_path, "--lora_r", "2"), {"depth": [2, 0]})


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


def test_the_best_is_trained_with_other_seeds_and_compared_with_other_settings(tmp_path, monkeypatch):
    """Its other trial, of seed 2, is no other setting; nor is one that was pruned."""
    losses, trained = iter([0.3, 0.4, 0.35]), []

    def train(runner, setting):
        trained.append(setting)
        return {"loss": next(losses), "accuracy": 0.9, "state": "complete"}

    monkeypatch.setattr(module, "train", train)
    rest = pd.DataFrame({"learning_rate": [3e-3, 3e-2], "depth": [1, 2], "seed": 1, "loss": [0.36, 2.0]})
    table = pd.concat([TABLE, rest.assign(epochs=3, state="complete")], ignore_index=True)
    space = {"learning_rate": table["learning_rate"].unique().tolist(), "depth": [1, 2], "seed": [1, 2]}
    figures = compare_best(FakeRunner(tmp_path), Results(tmp_path / "x"), space, table, 3)
    assert trained == [{"learning_rate": 1e-3, "depth": 1, "seed": seed} for seed in (3, 4, 5)]
    assert figures["loss"] == pytest.approx(0.35)
    assert (figures["others"], figures["as_good"]) == (2, 1)


def as_runs(losses, accuracies=None):
    pairs = zip(losses, losses if accuracies is None else accuracies, strict=True)
    return [{"loss": loss, "accuracy": accuracy, "state": "complete"} for loss, accuracy in pairs]


def test_the_interval_holds_one_more_run_in_95_of_100():
    rng = np.random.default_rng(0)
    draws = rng.normal(10, 2, size=(3000, 4))
    bounds = [spread(as_runs(losses[:3]), []) for losses in draws]
    inside = [found["low"] <= losses[3] <= found["high"] for found, losses in zip(bounds, draws, strict=True)]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    found = spread(as_runs([1.0, 2.0, 4.0], [0.5, 0.5, 0.8]), [])
    assert found["loss"] == pytest.approx(7 / 3)
    assert found["loss_sd"] == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert found["accuracy_sd"] == pytest.approx(np.std([0.5, 0.5, 0.8], ddof=1))


def test_other_settings_within_the_interval_or_below_may_be_as_good():
    """Of 0.10, 0.11 and 0.12, the interval is 0.11 -+ 4.303 * 0.01 * sqrt(4 / 3)."""
    figures = spread(as_runs([0.10, 0.11, 0.12]), [0.01, 0.12, 0.159, 0.161, 0.2])
    assert (figures["low"], figures["high"]) == (pytest.approx(0.0603, abs=1e-4), pytest.approx(0.1597, abs=1e-4))
    assert (figures["others"], figures["as_good"]) == (5, 3)
    text = describe_spread(figures)
    assert "with 3 other seeds: validation loss 0.1100 (sd 0.0100)" in text
    assert "a loss of 0.0603 to 0.1597 (95 %): 3 of 5 complete trials" in text


def test_seeds_that_diverged_are_counted_beside_the_others():
    lost = {"loss": None, "state": "diverged", "reason": "the loss is nan at step 3"}
    figures = spread([*as_runs([0.1, 0.2]), lost], [])
    assert figures == {**spread(as_runs([0.1, 0.2]), []), "diverged": 1}
    text = describe_spread(figures)
    assert "with 2 other seeds (and 1 more, which diverged: take a lower rate): validation loss 0.1500" in text
    none = "The best setting with 0 other seeds (and 1 more, which diverged: take a lower rate)."
    assert describe_spread(spread([lost], [])) == none
    assert describe_spread(spread(as_runs([0.1]), [])).endswith("with 1 other seeds: validation loss 0.1000.")


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
    monkeypatch.setattr(module, "write_figure", lambda figure, path: drawn.append(figure))
    draw_sweep(tmp_path / "sweep.png", TABLE, figures)
    assert not drawn[0].axes[0].containers


def test_pruned_trials_are_hollow(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(module, "write_figure", lambda figure, path: figures.append(figure))
    draw_sweep(tmp_path / "sweep.png", TABLE, spread(as_runs([0.2, 0.3], [0.9, 0.9]), []))
    (axes,) = figures[0].axes
    dots = [dot for dot in axes.collections if hasattr(dot, "get_sizes")]
    hollow = sum(len(dot.get_offsets()) for dot in dots if len(dot.get_facecolors()) == 0)
    filled = sum(len(dot.get_offsets()) for dot in dots if len(dot.get_facecolors()))
    assert (filled, hollow) == (2, 2)
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "x") == 1
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["complete, depth 1", "complete, depth 2", "pruned, when it was", "best, other seeds (sd)"]

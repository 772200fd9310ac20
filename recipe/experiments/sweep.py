"""A sweep: trials over learning rate, depth, dropout and seed, chosen and stopped early by Optuna, trained by the runner."""

import itertools
import math
import random
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import optuna
import pandas as pd
from scipy.stats import t
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from recipe.arguments import check_fields
from recipe.config import Arguments, field_of
from recipe.errors import RecipeError
from recipe.evaluation.plots import new_figure, write_figure
from recipe.experiments.runs import Results, Runner
from recipe.model.freezing import LAST_BLOCKS, trainable_patterns
from recipe.model.loading import load_config
from recipe.training.callbacks import callbacks_for
from recipe.training.trainer import DivergedError

FIRST = 10  # trials of a range that stand at equal ratios; as many as Optuna's TPE draws at random
OPTIONS = {"learning_rate": "learning_rate", "depth": "trainable", "dropout": "dropout", "seed": "seed"}  # of train.py

# Values of learning_rate, depth (how many last blocks train), dropout, seed: a list, or a range (low, high) of the first.
Space = Mapping[str, list | tuple[float, float]]


def plan_trials(space: Space, trials: int | None, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many trials to run, and the values that the first of them take, in a random order.

    learning_rate [1e-3, 1e-2], depth [1, 2]    all four combinations, or `trials` of them
    learning_rate (1e-4, 1e-2), trials 3        1e-4, 1e-3, 1e-2: equal ratios, without the gaps of random rates
    beyond FIRST trials of a range              Optuna chooses, by the trials before

    In rising order each rate might beat those before it, and none would be pruned.
    """
    rates = space["learning_rate"]
    if isinstance(rates, tuple):
        trials = trials or FIRST
        evenly = np.geomspace(*rates, min(trials, FIRST)).tolist()
        plan = [{"learning_rate": min(max(float(f"{rate:.3g}"), rates[0]), rates[1])} for rate in evenly]
    else:
        plan = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
        trials = min(trials or len(plan), len(plan))
    random.Random(seed).shuffle(plan)
    return trials, plan[:trials]


def check_options(arguments: Arguments, space: Space) -> None:
    """Raise RecipeError for options that a sweep cannot follow, or a depth that the model does not have.

    A training is measured by the validation loss of the epoch whose model train.py keeps: the best one, or, without
    load_best_model_at_end, the last.
    """
    model_args, _, args = arguments
    check_fields(args, "eval_delay", lambda delay: not delay, "0 in a sweep, which compares after each epoch")
    if args.load_best_model_at_end:
        check_fields(args, "metric_for_best_model", ("loss", "eval_loss").__contains__, "loss in a sweep")
        check_fields(args, "greater_is_better", lambda greater: not greater, "false in a sweep, as for a loss")
        if args.eval_strategy != "epoch":
            raise RecipeError(f"eval_strategy is {args.eval_strategy.value}: take epoch in a sweep")
    config = load_config(model_args.model_name_or_path, model_args.model_revision)
    for depth in space.get("depth", ()):
        trainable_patterns(config, [f"{LAST_BLOCKS}{depth}"])
        if model_args.lora_r and not depth:
            raise RecipeError("lora_r adapts blocks, and depths has 0, where none trains: leave 0 out")


class Validations(TrainerCallback):
    """The validations of a training; `goes_on(epochs, loss)` is asked after each but the last whether it goes on."""

    def __init__(self, keeps_best: bool, goes_on: Callable[[int, float], bool]):
        self.keeps_best, self.goes_on, self.pruned = keeps_best, goes_on, False
        self.kept: dict[str, float] = {}  # loss and accuracy of the epoch, so far, whose model train.py would keep
        self.reported: list[float] = []  # the losses that `goes_on` was asked with

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        loss, accuracy = (keywords["metrics"][f"eval_{name}"] for name in ("loss", "accuracy"))
        if not math.isfinite(loss):
            raise DivergedError(f"the validation loss is {loss}")
        if not (self.keeps_best and self.kept and self.kept["loss"] <= loss):
            self.kept = {"loss": loss, "accuracy": accuracy}
        if state.global_step < state.max_steps:
            self.reported.append(self.kept["loss"])
            if not self.goes_on(len(self.reported), self.kept["loss"]):
                self.pruned = control.should_training_stop = True


def train(
    runner: Runner, setting: Mapping[str, Any], goes_on: Callable[[int, float], bool] = lambda epochs, loss: True
) -> dict[str, Any]:
    """Train a setting, to its end unless `goes_on` stops it.

    Returns:
        `loss` and `accuracy` of the epoch whose model train.py would keep, `epochs`, `seconds`, `reported` (the losses that
        `goes_on` was asked with), and `state`: complete, pruned, or diverged, with the `reason`.
    """
    args = runner.arguments[2]
    validations = Validations(args.load_best_model_at_end, goes_on)
    options = {"dropout": setting["dropout"]} if "dropout" in setting else {}
    options |= {"trainable": [f"{LAST_BLOCKS}{setting['depth']}"]} if "depth" in setting else {}
    training = {"learning_rate": setting["learning_rate"], "eval_strategy": "epoch", "save_strategy": "no"}
    training |= {"load_best_model_at_end": False, "metric_for_best_model": "loss", "greater_is_better": False}
    callbacks = [validations, *callbacks_for(args)]
    with runner.trainer(None, setting.get("seed"), options, callbacks, disable_tqdm=True, **training) as trainer:
        start = perf_counter()
        try:
            trainer.train()
            figures = {**validations.kept, "state": "pruned" if validations.pruned else "complete"}
        except DivergedError as error:
            figures = {"loss": None, "accuracy": None, "state": "diverged", "reason": error.reason}
        epochs, seconds = round(trainer.state.epoch or 0, 1), perf_counter() - start
    return {**figures, "epochs": epochs, "seconds": seconds, "reported": validations.reported}


def search(
    runner: Runner, results: Results, space: Space, trials: int, plan: Sequence[dict[str, Any]], factor: int = 2
) -> pd.DataFrame:
    """Run the trials, those of the plan first, and return their table; what `results` has is not trained again.

    By successive halving (Li et al., 2018), after 1, 2, 4 ... epochs a trial goes on if it is among the best 1 / factor of
    those that came so far. Optuna's sampler is seeded: an interrupted search asks for the same trials again.

    Raises:
        RecipeError: no trial ran to its end.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=runner.arguments[2].seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=factor),
    )
    for values in plan:
        study.enqueue_trial(values)
    rows = []
    with tqdm(total=trials, unit=" trials", disable=runner.arguments[2].disable_tqdm) as bar:
        for number in range(trials):
            trial = study.ask()
            values = {
                name: trial.suggest_float(name, *given, log=True)
                if isinstance(given, tuple)
                else trial.suggest_categorical(name, given)
                for name, given in space.items()
            }

            def goes_on(epoch: int, loss: float, trial: optuna.Trial = trial) -> bool:
                trial.report(loss, epoch)
                bar.set_postfix_str(f"trial {trial.number}: {loss:.4f}")
                return not trial.should_prune()

            found = results.get(values)
            for epochs, loss in enumerate(found["reported"] if found else (), start=1):  # as it was asked then
                goes_on(epochs, loss)
            found = found or results.of(values, partial(train, runner, values, goes_on))
            complete = found["state"] == "complete"
            states = optuna.trial.TrialState
            study.tell(trial, found["loss"] if complete else None, states.COMPLETE if complete else states.PRUNED)
            rows.append({"trial": number, **values, **found})
            bar.update()
    table = pd.DataFrame(rows)[["trial", *space, "loss", "accuracy", "epochs", "state", "seconds"]]
    if "complete" not in set(table["state"]):
        raise RecipeError("no trial ran to its end: give lower learning_rates")
    return table.sort_values(["state", "loss"])  # by the alphabet, complete ones are first


def compare_best(runner: Runner, results: Results, space: Space, table: pd.DataFrame, count: int) -> dict[str, float]:
    """Train the best setting, the table's first, with `count` other seeds, and return the figures of `spread`.

    Seeds of the trials are left out: the best trial was chosen for its loss, so its own says too much.
    """
    best = table.iloc[0]
    names = [name for name in space if name != "seed"]
    taken = {runner.arguments[2].seed, *space.get("seed", ())}
    seeds = itertools.islice((seed for seed in itertools.count(min(taken)) if seed not in taken), count)
    runs = []
    for seed in tqdm([*seeds], unit=" seeds", disable=runner.arguments[2].disable_tqdm):
        setting = {**setting_of(best, names), "seed": seed}
        runs.append(results.of({**setting, "to_the_end": True}, partial(train, runner, setting)))
    others = table[(table["state"] == "complete") & (table[names] != best[names]).any(axis=1)]
    return spread(runs, others["loss"])


def setting_of(row: pd.Series, names: Sequence[str]) -> dict[str, Any]:
    """Return a row's values as Python's own numbers."""
    return {name: row[name].item() if isinstance(row[name], np.generic) else row[name] for name in names}


def spread(runs: Sequence[Mapping[str, Any]], others: Sequence[float]) -> dict[str, float]:
    """Return mean and sd of runs that differ by their seed alone, and how many losses of `others` may differ by no more.

    `low` and `high` bound the 95 % prediction interval of one more run, if losses are normal: mean -+ t sd sqrt(1 + 1/n),
    and not below 0; `as_good` of the others are in it or below. Runs that diverged are counted, and left out of the figures.
    """
    ended = [run for run in runs if run["state"] != "diverged"]
    figures: dict[str, float] = {"runs": len(ended), "diverged": len(runs) - len(ended)}
    for name in ("loss", "accuracy"):
        values = [run[name] for run in ended]
        figures |= {name: float(np.mean(values))} if ended else {}
        figures |= {f"{name}_sd": float(np.std(values, ddof=1))} if len(ended) > 1 else {}
    if len(ended) > 1:
        reach = float(t.ppf(0.975, len(ended) - 1)) * figures["loss_sd"] * (1 + 1 / len(ended)) ** 0.5
        figures |= {"low": max(figures["loss"] - reach, 0.0), "high": figures["loss"] + reach}
        figures |= {"others": len(others), "as_good": sum(loss <= figures["high"] for loss in others)}
    return figures


def describe_spread(figures: Mapping[str, float]) -> str:
    """Return what the best setting's other seeds gave, and how many other settings may be as good."""
    text = f"The best setting with {figures['runs']} other seeds"
    if figures["diverged"]:
        text += f" (and {figures['diverged']} more, which diverged: take a lower rate)"
    if "loss" in figures:
        text += f": validation loss {figures['loss']:.4f}"
    if "high" in figures:
        text += (
            f" (sd {figures['loss_sd']:.4f}), accuracy {figures['accuracy']:.4f} (sd {figures['accuracy_sd']:.4f}). A single run"
            f" would have a loss of {figures['low']:.4f} to {figures['high']:.4f} (95 %): {figures['as_good']} of"
            f" {figures['others']} complete trials of other settings have no larger one, so may differ by their seed alone"
        )
    return f"{text}."


def train_command(overrides: Sequence[str], setting: Mapping[str, Any], output_dir: Path) -> str:
    """Return the command of train.py for a setting: its values replace the sweep's options of these, and no token is kept."""
    replaced = {OPTIONS[name] for name in setting} | {"overwrite_output_dir", "hub_token"}
    words, kept = ["python", "scripts/train.py"], True
    for word in overrides:
        if word.startswith("--"):
            kept = field_of(word) not in replaced
        words += [word] if kept else []
    for name, value in setting.items():
        words += [f"--{OPTIONS[name]}", f"{LAST_BLOCKS}{value}" if name == "depth" else str(value)]
    return shlex.join([*words, "--output_dir", str(output_dir)])


def draw_sweep(path: Path, table: pd.DataFrame, figures: Mapping[str, float]) -> None:
    """Draw validation loss by learning rate, a line a depth, and the best setting's mean over its other seeds, if it has one.

    Trials that were pruned are hollow, and crosses at the top have diverged.
    """
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    by_depth = table.groupby("depth") if "depth" in table else [(None, table)]
    for number, (depth, rows) in enumerate(by_depth):
        color, name = f"C{number}", "complete" if depth is None else f"complete, depth {depth}"
        axes.plot(rows.groupby("learning_rate")["loss"].min(), color=color, linewidth=0.8, alpha=0.6)
        complete, pruned = (rows[rows["state"] == state] for state in ("complete", "pruned"))
        axes.scatter(complete["learning_rate"], complete["loss"], color=color, label=name)
        axes.scatter(pruned["learning_rate"], pruned["loss"], facecolors="none", edgecolors=color)
        diverged = rows.loc[rows["state"] == "diverged", "learning_rate"]
        axes.plot(diverged, [0.97] * len(diverged), "x", color=color, transform=axes.get_xaxis_transform())
    axes.scatter([], [], facecolors="none", edgecolors="black", label="pruned, when it was")
    if "loss" in figures:
        error, place = figures.get("loss_sd", 0), table["learning_rate"].iloc[0]
        axes.errorbar(place, figures["loss"], error, fmt="_", color="black", capsize=4, label="best, other seeds (sd)")
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss")
    axes.grid(alpha=0.2, which="both")
    axes.legend(fontsize=8, frameon=False)
    write_figure(figure, path)

"""A sweep: trials over learning rate, depth, dropout and seed on one feature cache, weak ones stopped early by Optuna."""

import copy
import dataclasses
import itertools
import json
import math
import random
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import optuna
import pandas as pd
import xxhash
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from scipy.stats import t
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments, check_fields
from recipe.atomic import write_files
from recipe.config import field_of
from recipe.data.dataset import TextSplits
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.errors import RecipeError, as_recipe_error
from recipe.evaluation.metrics import compute_metrics
from recipe.evaluation.plots import BLUE, save_figure
from recipe.experiments.fitting import make_model, refuse_windows
from recipe.model.freezing import LAST_BLOCKS, trainable_patterns
from recipe.model.loading import load_config
from recipe.training.callbacks import EarlyStopping
from recipe.training.class_weights import loss_for
from recipe.training.features import cache_features
from recipe.training.trainer import RecipeTrainer

FIRST = 10  # trials of a range that stand at equal ratios; as many as Optuna's TPE draws at random
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

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


def hash_texts(splits: TextSplits) -> str:
    """Return a hash of the texts and labels that a sweep reads."""
    rows = [splits[part][column][:] for part in ("train", "validation") for column in ("text", "label")]
    return xxhash.xxh3_128_hexdigest(repr((splits.label_names, rows)).encode())


def open_study(path: Path, plan: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> optuna.Study:
    """Open the study in a journal file, with the planned trials in line that have not been run, or were interrupted.

    Raises:
        RecipeError: the journal is that of another sweep (`about` tells, a JSON mapping), or damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with as_recipe_error(
        (ValueError, KeyError), f"{path} cannot be read", "pass --overwrite_output_dir to start again"
    ):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)
    about = json.loads(json.dumps(about))
    before = study.user_attrs.get("about", about)
    if changed := sorted(name for name in before.keys() | about.keys() if before.get(name) != about.get(name)):
        name = changed[0]
        raise RecipeError(
            f"{path.parent} holds an unfinished sweep with another {name} ({before.get(name)}, now {about.get(name)}):"
            " give its options and texts again, another folder, or --overwrite_output_dir"
        )
    study.set_user_attr("about", about)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
    kept = study.get_trials(states=(*DONE, TrialState.WAITING))
    have = [trial.system_attrs.get("fixed_params") for trial in kept]
    for values in plan:
        if values not in have:
            study.enqueue_trial(values)
    return study


class Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Successive halving whose first rung is one epoch; a trial at its last step is complete, however it did."""

    def __init__(self, steps_per_epoch: int, max_steps: int, factor: int):
        super().__init__(min_resource=steps_per_epoch, reduction_factor=factor)
        self.max_steps = max_steps

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step < self.max_steps and super().prune(study, trial)


class SweepTrainer(RecipeTrainer):
    """RecipeTrainer for many short runs: one that diverges is pruned instead of ending the sweep."""

    bar: tqdm | None = None

    def train(self, *args: Any, **keywords: Any) -> Any:
        try:
            return super().train(*args, **keywords)
        finally:
            if self.bar is not None:
                self.bar.update()

    def stop_diverged(self, reason: str) -> None:
        if self._trial is not None:
            self._trial.set_user_attr("diverged", reason)
        raise optuna.TrialPruned(reason)


class Sweep:
    """The trainings of a sweep: all on the same splits and one feature cache, each as train.py would run it.

    A training is measured by the validation loss of the epoch whose model train.py keeps: the best one, or, without
    load_best_model_at_end, the last.

    Raises:
        RecipeError: options that a sweep cannot follow, or a depth that the model does not have.
    """

    def __init__(
        self,
        arguments: tuple[ModelArguments, DataArguments, RecipeTrainingArguments],
        splits: TextSplits,
        space: Space,
        scratch: str,
    ):
        """Take train.py's options, what varies, and a folder for what Trainer writes."""
        self.model_args, data_args, self.args = arguments[0], arguments[1], copy.copy(arguments[2])
        self.labels, self.space = splits.label_names, space
        if self.args.world_size > 1:
            raise RecipeError("a sweep is one process: start it without `accelerate launch`")
        self.keeps_best = self.args.load_best_model_at_end
        if self.keeps_best:
            check_fields(self.args, "metric_for_best_model", ("loss", "eval_loss").__contains__, "loss in a sweep")
            check_fields(self.args, "greater_is_better", lambda greater: not greater, "false in a sweep, as for a loss")
            if self.args.eval_strategy != "epoch":
                raise RecipeError(f"eval_strategy is {self.args.eval_strategy.value}: take epoch in a sweep")
        name, revision = self.model_args.model_name_or_path, self.model_args.model_revision
        config, depths = load_config(name, revision), space.get("depth", ())
        refuse_windows(config, data_args)
        for depth in depths:
            trainable_patterns(config, [f"{LAST_BLOCKS}{depth}"])
        self.args.output_dir, self.args.report_to, self.args.disable_tqdm = scratch, [], True
        self.args.eval_strategy, self.args.save_strategy, self.args.logging_strategy = "epoch", "no", "no"
        self.args.load_best_model_at_end, patience = False, self.args.early_stopping_patience
        if patience:
            self.args.metric_for_best_model, self.args.greater_is_better = "loss", False
        tokenizer = load_tokenizer(name, config, data_args.max_length, data_args.truncation_side, revision)
        self.tokenized = tokenize({part: splits[part] for part in ("train", "validation")}, tokenizer)
        self.cached: dict[int | None, datasets.DatasetDict] = {}  # by depth
        self.trainer: SweepTrainer | None = None
        self.seed = self.args.seed  # of trials, where it does not vary
        self.setting: dict[str, Any] = {"seed": self.seed, **({"depth": min(depths)} if depths else {})}
        self.trial: Trial | None = None
        self.trainer = SweepTrainer(
            args=self.args,
            model_init=self.make_model,
            train_dataset=self.tokenized["train"],
            eval_dataset=self.tokenized["validation"],
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            compute_loss_func=loss_for(data_args.class_weight, self.tokenized["train"]["labels"], len(self.labels)),
            callbacks=[EarlyStopping(patience)] if patience else None,
        )
        self.trainer.remove_callback(PrinterCallback)

    @property
    def steps_per_epoch(self) -> int:
        rows, args = len(self.tokenized["train"]), self.args
        batches = rows // args.train_batch_size if args.dataloader_drop_last else -(-rows // args.train_batch_size)
        return max(1, -(-batches // args.gradient_accumulation_steps))

    @property
    def max_steps(self) -> int:
        limit = self.args.max_steps
        return limit if limit > 0 else math.ceil(self.args.num_train_epochs * self.steps_per_epoch)

    def fill_cache(self) -> None:
        """Run the trunk of every depth over the texts, before the trials, which then train the tail alone."""
        for depth in self.space.get("depth", [None]):
            self.setting = {"seed": self.seed, **({} if depth is None else {"depth": depth})}
            self.make_model()

    def make_model(self, trial: Trial | None = None) -> PreTrainedModel:
        """Return a fresh model of the trial's setting (or of `setting`), which also goes into Trainer's arguments."""
        if trial is not None:
            self.trial = trial
            self.setting = {"seed": self.seed, **suggest(trial, self.space)}
        setting, args = self.setting, self.args
        args.learning_rate = setting.get("learning_rate", args.learning_rate)
        args.seed = setting["seed"]
        chosen = {"dropout": setting["dropout"]} if "dropout" in setting else {}
        chosen |= {"trainable": [f"{LAST_BLOCKS}{setting['depth']}"]} if "depth" in setting else {}
        model = make_model(dataclasses.replace(self.model_args, **chosen), self.labels, args.seed)
        if self.trainer is not None:
            depth = setting.get("depth")
            if depth not in self.cached:
                self.cached[depth] = cache_features(model, self.tokenized, **self.model_args.cache)
            rows = self.cached[depth]
            self.trainer.train_dataset, self.trainer.eval_dataset = rows["train"], rows["validation"]
        set_seed(args.seed)  # as Trainer does when it gets a model: the order of the texts is train.py's
        return model

    def kept_epoch(self) -> dict[str, float]:
        """Return loss and accuracy of the validation, so far, whose model train.py would keep."""
        validations = [row for row in self.trainer.state.log_history if "eval_loss" in row]
        kept = min(validations, key=lambda row: row["eval_loss"]) if self.keeps_best else validations[-1]
        return {"loss": kept["eval_loss"], "accuracy": kept["eval_accuracy"]}

    def objective(self, metrics: Mapping[str, float]) -> float:
        """Return the value of the trial so far, for Trainer to report after each validation."""
        if not math.isfinite(metrics["eval_loss"]):
            self.trainer.stop_diverged(f"the validation loss is {metrics['eval_loss']}")
        kept = self.kept_epoch()
        self.trial.set_user_attr("accuracy", kept["accuracy"])
        if self.trainer.bar is not None:
            self.trainer.bar.set_postfix_str(f"trial {self.trial.number}: {kept['loss']:.4f}")
        return kept["loss"]

    def search(self, study: optuna.Study, trials: int, factor: int = 2) -> None:
        """Run trials until the study has so many; those that it has are not run again.

        Raises:
            RecipeError: no trial ran to its end.
        """
        missing = trials - len(study.get_trials(states=DONE))
        seed = self.seed + len(study.trials)  # else a sweep that goes on would draw its first rates once more
        try:
            if missing > 0:
                self.trainer.hyperparameter_search(
                    hp_space=lambda trial: {},  # make_model has set them
                    compute_objective=self.objective,
                    n_trials=missing,
                    study_name=study.study_name,
                    storage=study._storage,
                    load_if_exists=True,
                    sampler=optuna.samplers.TPESampler(seed=seed),
                    pruner=Halving(self.steps_per_epoch, self.max_steps, factor),
                )
        except ValueError:  # at its end Trainer asks for the best of the complete trials
            if len(study.get_trials(states=DONE)) < trials:
                raise
        if not study.get_trials(states=[TrialState.COMPLETE]):
            raise RecipeError("no trial ran to its end: give lower learning_rates")

    def measure(self, study: optuna.Study, setting: dict[str, Any]) -> dict[str, Any]:
        """Train a setting, `seed` included, to its end; the study remembers what it returns.

        Returns:
            `loss` and `accuracy` of the epoch that is kept, or `diverged`, with the reason.
        """
        name = json.dumps(setting, sort_keys=True)
        if name not in study.user_attrs:
            self.setting = setting
            try:
                self.trainer.train()
                kept = self.kept_epoch()
                if not math.isfinite(kept["loss"]):
                    raise optuna.TrialPruned(f"the validation loss is {kept['loss']}")
                study.set_user_attr(name, kept)
            except optuna.TrialPruned as diverged:
                study.set_user_attr(name, {"diverged": str(diverged)})
        return study.user_attrs[name]


def compare_best(
    sweep: Sweep, study: optuna.Study, table: pd.DataFrame, count: int
) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Train the best setting with `count` other seeds, and the runner-up to its end if it was pruned.

    Seeds of the trials are left out: the best trial was chosen for its loss, so its own says too much.

    Returns:
        spread's figures (empty if count is 0) and the runner-up as `measure` returns it, or None.
    """
    best, runner_up = best_and_runner_up(table, sweep.space)
    if not count:
        return {}, None
    taken = {sweep.seed, *sweep.space.get("seed", ())}
    seeds = itertools.islice((seed for seed in itertools.count(min(taken)) if seed not in taken), count)
    figures = spread([sweep.measure(study, {**setting_of(best, sweep.space), "seed": seed}) for seed in seeds])
    if runner_up is None:
        return figures, None
    setting = setting_of(runner_up, sweep.space)
    if runner_up["state"] == "complete":
        return figures, {**setting, "loss": runner_up["loss"], "accuracy": runner_up["accuracy"]}
    return figures, {**setting, **sweep.measure(study, {"seed": sweep.seed, **setting})}


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Return the trial's values."""
    return {
        name: trial.suggest_float(name, *values, log=True)
        if isinstance(values, tuple)
        else trial.suggest_categorical(name, values)
        for name, values in space.items()
    }


STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}
OPTIONS = {"learning_rate": "learning_rate", "depth": "trainable", "dropout": "dropout", "seed": "seed"}  # of train.py


def tabulate(trials: Sequence[FrozenTrial], steps_per_epoch: int) -> pd.DataFrame:
    """Return a row a trial, the best first: its values, `loss` and `accuracy` on validation, `epochs`, `state`, `seconds`.

    `loss` is that of the epoch whose model is kept; a trial that was pruned might have gone lower.
    """
    rows = []
    for trial in (trial for trial in trials if trial.state in STATES):
        state = "diverged" if "diverged" in trial.user_attrs else STATES[trial.state]
        epochs = round((trial.last_step or 0) / steps_per_epoch, 1)
        rows.append(
            {"trial": trial.number, **trial.params, "loss": trial.value, "accuracy": trial.user_attrs.get("accuracy")}
            | {"epochs": epochs, "state": state, "seconds": trial.duration.total_seconds()}
        )
    table = pd.DataFrame(rows)
    order = table["state"].map(["complete", "pruned", "diverged"].index)
    far = -table["epochs"].where(table["state"] != "complete", 0)  # early stopping ends complete ones at any epoch
    return table.assign(order=order, far=far).sort_values(["order", "far", "loss"]).drop(columns=["order", "far"])


def best_and_runner_up(table: pd.DataFrame, names: Sequence[str]) -> tuple[pd.Series, pd.Series | None]:
    """Return the rows of the best setting and of the next other one, whatever their seeds; the table's best is first.

    The runner-up may have been pruned: of these, the one that ran farthest.
    """
    best = table.iloc[0]
    settings = [name for name in names if name != "seed"]
    others = table[(table[settings] != best[settings]).any(axis=1) & (table["state"] != "diverged")]
    return best, others.iloc[0] if len(others) else None


def setting_of(row: pd.Series, names: Sequence[str]) -> dict[str, Any]:
    """Return a row's values as Python's own numbers."""
    return {name: row[name].item() if isinstance(row[name], np.generic) else row[name] for name in names}


def spread(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean and standard deviation of runs that differ by their seed alone, and where another run's loss would lie.

    `low` and `high` bound the 95 % prediction interval of one more run, if losses are normal: mean -+ t sd sqrt(1 + 1/n),
    and not below 0. Runs without a `loss` have diverged: they are counted, and the figures are of the others.
    """
    ended = [run for run in runs if "loss" in run]
    figures: dict[str, float] = {"runs": len(ended), "diverged": len(runs) - len(ended)}
    losses, accuracies = [run["loss"] for run in ended], [run["accuracy"] for run in ended]
    if ended:
        figures |= {"loss": float(np.mean(losses)), "accuracy": float(np.mean(accuracies))}
    if len(ended) > 1:
        sd = float(np.std(losses, ddof=1))
        reach = float(t.ppf(0.975, len(losses) - 1)) * sd * (1 + 1 / len(losses)) ** 0.5
        figures |= {"loss_sd": sd, "accuracy_sd": float(np.std(accuracies, ddof=1))}
        figures |= {"low": max(figures["loss"] - reach, 0.0), "high": figures["loss"] + reach}
    return figures


def describe_spread(figures: Mapping[str, float], runner_up: Mapping[str, Any] | None) -> str:
    """Return the sentences on the best setting's seeds, and on whether the runner-up is any different."""
    text = ""
    if figures["diverged"]:
        count = figures["diverged"] + figures["runs"]
        text = f"Of {count} other seeds, {figures['diverged']} diverged with the best setting: take a lower rate.\n"
    if "loss" not in figures:
        return text.strip()
    if "low" not in figures:
        text += f"One more seed of the best setting: validation loss {figures['loss']:.4f}"
        return text + "; two or more have a spread."
    text += (
        f"The best setting with {figures['runs']} other seeds: validation loss {figures['loss']:.4f}"
        f" (sd {figures['loss_sd']:.4f}), accuracy {figures['accuracy']:.4f} (sd {figures['accuracy_sd']:.4f}).\n"
    )
    if runner_up is None:
        return text + "There is no other setting to compare it with."
    if "loss" not in runner_up:
        return text + f"The runner-up diverged: {runner_up['diverged']}."
    loss = runner_up["loss"]
    inside = figures["low"] <= loss <= figures["high"]
    verdict = "it may differ by its seed alone" if inside else "a better one" if loss < figures["low"] else "worse"
    return text + (
        f"The runner-up's {loss:.4f} lies {'within' if inside else 'outside'} {figures['low']:.4f} to"
        f" {figures['high']:.4f}, where 95 % of single runs of the best setting would: {verdict}."
    )


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
    """Draw validation loss by learning rate, a line a depth, and the best setting's mean over its seeds, if it has one.

    Trials that were pruned are hollow, with the epochs that their loss comes from. Crosses at the top have diverged.
    """
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, which would look for a screen

    figure = Figure(figsize=(7, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    depths = sorted(table["depth"].unique()) if "depth" in table else [None]
    colors = [BLUE] if len(depths) == 1 else matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(depths)))
    for depth, color in zip(depths, colors, strict=True):
        rows = table if depth is None else table[table["depth"] == depth]
        run = rows[rows["state"] != "diverged"].sort_values("learning_rate")
        axes.plot(run.groupby("learning_rate")["loss"].min(), color=color, linewidth=0.8, alpha=0.6)
        name = "complete" if depth is None else f"{depth} blocks train" if depth != 1 else "1 block trains"
        for state, fill in (("complete", color), ("pruned", "none")):
            chosen = run[run["state"] == state]
            label = name if state == "complete" else "pruned after so many epochs" if depth == depths[-1] else None
            axes.scatter(chosen["learning_rate"], chosen["loss"], facecolors=fill, edgecolors=color, label=label)
        for _, row in run[run["state"] == "pruned"].iterrows():
            place = row["learning_rate"], row["loss"]
            axes.annotate(f"{row['epochs']:g}", place, (5, 3), textcoords="offset points", fontsize=7, color=color)
        lost = rows.loc[rows["state"] == "diverged", "learning_rate"]
        axes.plot(lost, [0.97] * len(lost), "x", color=color, transform=axes.get_xaxis_transform())
    if "loss" in figures:
        error, place = figures.get("loss_sd", 0), table["learning_rate"].iloc[0]
        axes.errorbar(place, figures["loss"], error, fmt="_", color="black", capsize=4, label="best, other seeds (sd)")
    axes.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="validation loss")
    ratio = table["loss"].max() / table["loss"].min()
    subs = (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9) if ratio < 10 else (1, 2, 5) if ratio < 1000 else (1,)
    axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, frameon=False)
    write_files(path.parent, lambda folder: save_figure(figure, folder / path.name))

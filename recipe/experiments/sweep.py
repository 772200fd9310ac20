"""A sweep: trials over learning rate, depth, dropout and seed on one feature cache, weak ones stopped early by Optuna."""

import copy
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState
from tqdm import tqdm
from transformers import PrinterCallback, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments
from recipe.data.dataset import TextSplits
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.errors import RecipeError, explain
from recipe.evaluation.metrics import compute_metrics
from recipe.experiments.sweep_results import best_and_runner_up, setting_of, spread
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.freezing import LAST_BLOCKS, freeze_except, trainable_patterns
from recipe.model.loading import load_config
from recipe.training.callbacks import EarlyStopping
from recipe.training.class_weights import balanced_loss
from recipe.training.trainer import RecipeTrainer

FIRST = 10  # trials of a range that stand at equal ratios; as many as Optuna's TPE draws at random
DONE = (TrialState.COMPLETE, TrialState.PRUNED)

# Values of learning_rate, depth (how many last blocks train), dropout, seed: a list, or a range (low, high) of the first.
Space = Mapping[str, list | tuple[float, float]]


class Halving(optuna.pruners.SuccessiveHalvingPruner):
    """Successive halving whose first rung is one epoch; a trial at its last step is complete, however it did."""

    def __init__(self, steps_per_epoch: int, max_steps: int, factor: int):
        super().__init__(min_resource=steps_per_epoch, reduction_factor=factor)
        self.max_steps = max_steps

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.last_step < self.max_steps and super().prune(study, trial)


class SweepTrainer(RecipeTrainer):
    """RecipeTrainer for many short runs: a trial that diverges is pruned instead of ending the sweep."""

    bar: tqdm | None = None

    def fill_cache(self, model: GPT2LastTokenClassifier) -> None:
        """Run the model's trunk over the texts whose features are not cached."""
        self.model = model
        self._cache_features()

    def train(self, *args: Any, **keywords: Any) -> Any:
        try:
            return super().train(*args, **keywords)
        finally:
            if self.bar is not None:
                self.bar.update()

    def _stop(self, reason: str) -> None:
        if self._trial is None:
            super()._stop(reason)
        self._trial.set_user_attr("diverged", reason)
        raise optuna.TrialPruned(reason)


class Sweep:
    """The trainings of a sweep: all on the same splits and one feature cache, each as train.py would run it.

    A training is measured by the validation loss of its best epoch, which is the one that train.py keeps.

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
        if data_args.window:
            raise RecipeError("a sweep truncates texts, and window is set: drop it")
        if self.args.world_size > 1:
            raise RecipeError("a sweep is one process: start it without `accelerate launch`")
        name, revision = self.model_args.model_name_or_path, self.model_args.model_revision
        config = load_config(name, revision)
        for depth in space.get("depth", ()):
            trainable_patterns(config, [f"{LAST_BLOCKS}{depth}"])
        self.args.output_dir, self.args.report_to, self.args.disable_tqdm = scratch, [], True
        self.args.eval_strategy, self.args.save_strategy, self.args.logging_strategy = "epoch", "no", "no"
        self.args.load_best_model_at_end, patience = False, self.args.early_stopping_patience
        if patience:
            self.args.metric_for_best_model, self.args.greater_is_better = "loss", False
        tokenizer = load_tokenizer(name, config, data_args.max_length, data_args.truncation_side, revision)
        self.tokenized = tokenize({part: splits[part] for part in ("train", "validation")}, tokenizer)
        labels, balanced = self.tokenized["train"]["labels"], data_args.class_weight == "balanced"
        self.seed = self.args.seed  # of trials, where it does not vary
        self.setting: dict[str, Any] = {"seed": self.seed}
        self.trial: Trial | None = None
        self.trainer = SweepTrainer(
            args=self.args,
            model_init=self.make_model,
            train_dataset=self.tokenized["train"],
            eval_dataset=self.tokenized["validation"],
            processing_class=tokenizer,
            compute_metrics=compute_metrics,
            compute_loss_func=balanced_loss(labels, len(self.labels)) if balanced else None,
            callbacks=[EarlyStopping(patience)] if patience else None,
            feature_cache=self.model_args.feature_cache,
            feature_cache_dir=self.model_args.feature_cache_dir,
            feature_cache_max_gb=self.model_args.feature_cache_max_gb,
            trunk_dtype=self.model_args.trunk_dtype,
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
        """Compute the features of every depth, before the trials: most blocks first trained, whose trunk is the shortest."""
        for depth in sorted(self.space.get("depth", [None]), reverse=True):
            self.setting = {"seed": self.seed, **({} if depth is None else {"depth": depth})}
            self.trainer.fill_cache(self.make_model())

    def make_model(self, trial: Trial | None = None) -> GPT2LastTokenClassifier:
        """Return a fresh model of the trial's setting (or of `setting`), which also goes into Trainer's arguments."""
        if trial is not None:
            self.trial = trial
            self.setting = {"seed": self.seed, **suggest(trial, self.space)}
        setting, args = self.setting, self.args
        args.learning_rate = setting.get("learning_rate", args.learning_rate)
        args.seed = setting["seed"]
        set_seed(args.seed)
        model = GPT2LastTokenClassifier.from_pretrained(
            self.model_args.model_name_or_path,
            revision=self.model_args.model_revision,
            id2label=dict(enumerate(self.labels)),
            pooling=self.model_args.pooling,
            dropout=setting.get("dropout", self.model_args.dropout),
            ignore_mismatched_sizes=self.model_args.ignore_mismatched_sizes,
        )
        trainable = [f"{LAST_BLOCKS}{setting['depth']}"] if "depth" in setting else self.model_args.trainable
        freeze_except(model, trainable_patterns(model.config, trainable))
        set_seed(args.seed)  # as Trainer does when it gets a model: the order of the texts is train.py's
        return model

    def best_epoch(self) -> dict[str, float]:
        """Return loss and accuracy of the training's best validation so far."""
        validations = [row for row in self.trainer.state.log_history if "eval_loss" in row]
        best = min(validations, key=lambda row: row["eval_loss"])
        return {"loss": best["eval_loss"], "accuracy": best["eval_accuracy"]}

    def objective(self, metrics: Mapping[str, float]) -> float:
        """Return the value of the trial so far, for Trainer to report after each validation."""
        best = self.best_epoch()
        self.trial.set_user_attr("accuracy", best["accuracy"])
        if self.trainer.bar is not None:
            self.trainer.bar.set_postfix_str(f"trial {self.trial.number}: {best['loss']:.4f}")
        return best["loss"]

    def search(self, study: optuna.Study, trials: int, factor: int = 2) -> None:
        """Run trials until the study has so many; those that it has are not run again."""
        trials -= len(study.get_trials(states=DONE))
        if trials <= 0:
            return
        seed = self.seed + len(study.trials)  # else a sweep that goes on would draw its first rates once more
        with explain(ValueError, "no trial ran to its end", "give lower learning_rates"):
            self.trainer.hyperparameter_search(
                hp_space=lambda trial: {},  # make_model has set them
                compute_objective=self.objective,
                n_trials=trials,
                study_name=study.study_name,
                storage=study._storage,
                load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=Halving(self.steps_per_epoch, self.max_steps, factor),
            )

    def measure(self, study: optuna.Study, setting: dict[str, Any]) -> dict[str, float]:
        """Train a setting, `seed` included, to its end and return its best epoch; the study remembers it."""
        name = json.dumps(setting, sort_keys=True)
        if name not in study.user_attrs:
            self.setting = setting
            self.trainer.train()
            study.set_user_attr(name, self.best_epoch())
        return study.user_attrs[name]


def compare_best(
    sweep: Sweep, study: optuna.Study, table: pd.DataFrame, count: int
) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Train the best setting with `count` other seeds, and the runner-up to its end if it was pruned.

    Seeds of the trials are left out: the best trial was chosen for its loss, so its own says too much.

    Returns:
        spread's figures (empty if count is 0) and the runner-up with its `loss`, or None.
    """
    best, runner_up = best_and_runner_up(table, sweep.space)
    if not count:
        return {}, None
    taken = {sweep.seed, *sweep.space.get("seed", ())}
    seeds = itertools.islice((seed for seed in itertools.count(min(taken)) if seed not in taken), count)
    runs = [sweep.measure(study, {**setting_of(best, sweep.space), "seed": seed}) for seed in seeds]
    figures = spread([run["loss"] for run in runs], [run["accuracy"] for run in runs])
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


def plan_trials(space: Space, trials: int | None, seed: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many trials to run, and the values that the first of them take.

    Lists are combined, each with each (or as many of these as there are trials). The first trials of a range stand at equal
    ratios, since ten random rates leave gaps, and draw their other values; later ones Optuna chooses by those before them.
    The order is random: with rising rates each might beat those before it, and none would be pruned.
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


def open_study(path: Path, plan: Sequence[dict[str, Any]], about: Mapping[str, Any]) -> optuna.Study:
    """Open the study in a journal file, with the planned trials in line that have not been run, or were interrupted.

    Raises:
        RecipeError: the journal is that of another sweep (`about` tells, a JSON mapping), or damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with explain((ValueError, KeyError), f"{path} cannot be read", "pass --overwrite_output_dir to start again"):
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="sweep", load_if_exists=True)
    about = json.loads(json.dumps(about))
    before = study.user_attrs.get("about", about)
    if changed := sorted(name for name in before.keys() | about.keys() if before.get(name) != about.get(name)):
        name = changed[0]
        raise RecipeError(
            f"{path.parent} holds an unfinished sweep with another {name} ({before.get(name)}, now {about.get(name)}):"
            " give its options again, another folder, or --overwrite_output_dir"
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

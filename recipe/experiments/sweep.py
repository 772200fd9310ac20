"""A sweep: trials over learning rate, depth, dropout and seed on one feature cache, weak ones stopped early by Optuna."""

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any

import datasets
import optuna
import pandas as pd
from optuna.trial import Trial, TrialState
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback, set_seed

from recipe.arguments import DataArguments, ModelArguments, RecipeTrainingArguments, check_fields
from recipe.data.dataset import TextSplits
from recipe.data.tokenization import load_tokenizer, tokenize
from recipe.errors import RecipeError
from recipe.evaluation.metrics import compute_metrics
from recipe.experiments.fitting import make_model, refuse_windows
from recipe.experiments.sweep_results import best_and_runner_up, setting_of, spread
from recipe.experiments.sweep_study import DONE, Space
from recipe.model.freezing import LAST_BLOCKS, trainable_patterns
from recipe.model.loading import load_config
from recipe.training.callbacks import EarlyStopping
from recipe.training.class_weights import loss_for
from recipe.training.features import cache_features
from recipe.training.trainer import RecipeTrainer


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

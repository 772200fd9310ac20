"""Trainer, with the few things a recipe adds to it."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from recipe.distributed import wait_for_everyone
from recipe.errors import RecipeError
from recipe.training.callbacks import StopOnSigterm
from recipe.training.checkpoints import MARKER, mark_whole
from recipe.training.sampling import SeededLengthGroupedSampler


class RecipeTrainer(Trainer):
    """Trainer, but its checkpoints say whether they are whole, what is not finite stops it, and groups by length resume.

    Its own grouping by length draws from the global random state, which a resumed epoch does not find again.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.grouping: SeededLengthGroupedSampler | None = None
        self.stop_on_sigterm = StopOnSigterm()
        self.add_callback(self.stop_on_sigterm)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # From self.train_dataset: the one that is passed has lost the columns that the model does not take.
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.grouping = SeededLengthGroupedSampler(batch_size, list(self.train_dataset["length"]), seed)
        return self.grouping

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        """In order; accelerate divides the rows among several processes and gathers each of them once."""
        return SequentialSampler(eval_dataset)

    def _get_dataloader(self, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As in Trainer, but `dataloader_drop_last` is for training alone: an evaluation drops no row."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """As in Trainer, which counts the numbers of the main input, by tokens: `hidden` has n_embd numbers a token."""
        operations = super().floating_point_ops(inputs)
        return operations // inputs["hidden"].shape[-1] if "hidden" in inputs else operations

    def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        """Stops at a loss that is not finite, before it reaches a weight."""
        outcome = super().compute_loss(model, inputs, *args, **kwargs)
        loss = outcome[0] if isinstance(outcome, tuple) else outcome
        if model.training and not torch.isfinite(loss).all():
            self.stop_for(f"the loss is {loss.item()} at step {self.state.global_step + 1}")
        return outcome

    def _run_epoch(self, *, epoch: int, **kwargs: Any) -> None:
        """As in Trainer, but a run that goes on from its very last step takes no more steps, nor one that patience ended."""
        if self.grouping is not None:
            self.grouping.set_epoch(epoch)  # with several processes, accelerate's wrappers hide it from Trainer
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(epoch=epoch, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As in Trainer, but a marker is written last, and older checkpoints are removed only then."""
        self.check_weights()
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        if self.args.should_save:
            (checkpoint / MARKER).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            mark_whole(checkpoint)
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint)
        wait_for_everyone()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in Trainer, where `save_strategy: best` asks this what to save: after SIGTERM, in any case."""
        is_best = super()._determine_best_metric(metrics, trial)
        return is_best or self.stop_on_sigterm.stopping

    def check_weights(self) -> None:
        """A finite loss can still have given gradients that are not: such weights replace no checkpoint and no model."""
        trained = (p for p in self.model.parameters() if p.requires_grad)
        if not all(torch.isfinite(parameter).all() for parameter in trained):
            self.stop_for(f"weights are no longer finite after step {self.state.global_step}")

    def stop_for(self, what: str) -> None:
        raise RecipeError(
            f"{what}: training stops, and what is saved in {self.args.output_dir} stays as it is; lower learning_rate"
            f" ({self.args.learning_rate:g} now), or set max_grad_norm ({self.args.max_grad_norm:g} now)"
        )

"""RecipeTrainer: a drop-in Trainer that trains the tail on cached features, resumes exactly, and stops safely."""

import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import DataCollatorWithPadding
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput, has_length, rotate_checkpoints

from recipe.data.tokenization import PaddingCollator
from recipe.distributed import any_process, wait_for_everyone
from recipe.errors import RecipeError, explain
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import save_classifier
from recipe.training.callbacks import StopOnSigterm
from recipe.training.checkpoints import (
    last_complete_checkpoint,
    load_trained,
    mark_complete,
    remove_marker,
    save_trained,
    trained_names,
)
from recipe.training.publishing_trainer import PublishingTrainer
from recipe.training.run_folder import refuse_finished
from recipe.training.trunk_pass import hash_parameters

logger = logging.getLogger(__name__)


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """transformers' grouping by length, but its order depends on the seed and the epoch alone, so a resumed run finds it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator()
        self.generator.manual_seed(self.seed + 1_000_003 * self.epoch)
        return super().__iter__()


class RecipeTrainer(PublishingTrainer):
    """Trainer for GPT2LastTokenClassifier, plain or with peft adapters: the same results, at the tail's cost.

    In a script written for this model and Trainer, changing the class name changes the speed and nothing else: see
    CachingTrainer, and, for its options, CachePolicy.

    What it adds: checkpoints hold the trained weights alone where the trunk is cached, are marked once complete, and resume
    exactly; evaluation drops no row; a loss or weight that is not finite stops the run before it is saved; SIGTERM saves
    first; `save_model` writes the complete model, stock wherever that has the same logits.
    """

    def __init__(self, *args: Any, **keywords: Any):
        """Take what CachingTrainer takes.

        Raises:
            RecipeError (a ValueError): as there, and a batch that no training rows fill.
        """
        self.saving_checkpoint = False
        self.train_sampler: Sampler | None = None
        super().__init__(*args, **keywords)
        rows = len(self.train_dataset) if has_length(self.train_dataset) else None
        if rows is not None and self.args.dataloader_drop_last and rows < self.args.train_batch_size:
            raise RecipeError(
                f"dataloader_drop_last drops every batch: {rows} training texts do not fill one of"
                f" {self.args.train_batch_size}: lower per_device_train_batch_size"
            )
        if type(self.data_collator) is DataCollatorWithPadding and vars(self.data_collator) == vars(
            DataCollatorWithPadding(self.processing_class)
        ):  # Trainer's default
            self.data_collator = PaddingCollator(self.processing_class)
        self.stop_on_sigterm = StopOnSigterm()
        self.add_callback(self.stop_on_sigterm)

    # ---- Which rows, in which order: found again when a run resumes ----

    def _get_dataloader(self, *args: Any, is_training: bool = False, **keywords: Any) -> DataLoader:
        """Let `dataloader_drop_last` drop training rows alone."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **keywords)
        finally:
            self.args.dataloader_drop_last = drop_last

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        # self.train_dataset: the one that is passed has lost the columns that the model does not take, `length` too.
        sampler = super()._get_train_sampler(self.train_dataset)
        if isinstance(sampler, LengthGroupedSampler):
            seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
            batch_size = sampler.batch_size * self.args.world_size
            sampler = SeededLengthGroupedSampler(batch_size, list(sampler.lengths), seed)
        self.train_sampler = sampler
        return sampler

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        """Read rows in order; accelerate divides them among processes and gathers each once."""
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def _run_epoch(self, *, epoch: int, **keywords: Any) -> None:
        """Run Trainer's epoch, unless the run resumes from its very last step, or from where patience ended it."""
        if isinstance(self.train_sampler, SeededLengthGroupedSampler):
            self.train_sampler.set_epoch(epoch)  # with several processes, accelerate's wrappers hide it from Trainer
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(epoch=epoch, **keywords)

    # ---- Training stops safely ----

    def train(self, *args: Any, **keywords: Any) -> TrainOutput:
        """Train as Trainer does; on SIGTERM save a checkpoint and exit with code 143.

        Raises:
            RecipeError: a loss or weights that are not finite, or a folder that holds a finished run of train.py.
        """
        refuse_finished(Path(self.args.output_dir))
        resume = keywords.get("resume_from_checkpoint", args[0] if args else None)
        if resume is True and (complete := last_complete_checkpoint(Path(self.args.output_dir))):
            args, keywords = args[1:], {**keywords, "resume_from_checkpoint": complete}
        with self.stop_on_sigterm.installed():
            output = super().train(*args, **keywords)
        self._check_weights()
        return output

    def check_optimizer(self) -> None:
        """Make the optimizer and its schedule once, for nothing: what cannot be made is refused before a run starts."""
        if "layerwise" in self.args.optim:  # which hooks into the parameters when it is made
            return
        fix = "correct optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs"
        with explain(Exception, "the optimizer or its schedule cannot be made", fix):
            self.create_optimizer()
            self.create_scheduler(num_training_steps=max(self.args.max_steps, 1))
        self.optimizer = self.lr_scheduler = None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **keywords: Any) -> torch.Tensor:
        """Take Trainer's step, and stop the run before the optimizer's at a loss that is not finite in any process."""
        loss = super().training_step(model, inputs, *args, **keywords)
        finite = bool(torch.isfinite(loss).all())
        if any_process(not finite):
            value = "not finite in another process" if finite else loss.item()
            self._stop(f"the loss is {value} at step {self.state.global_step + 1}")
        return loss

    def _check_weights(self) -> None:
        """Raise RecipeError for weights that are not finite (a finite loss can give such gradients) before they are saved."""
        trained = [p.to_local() if isinstance(p, DTensor) else p for p in self.model.parameters() if p.requires_grad]
        if any_process(not all(torch.isfinite(parameter).all() for parameter in trained)):  # each has shards of its own
            self._stop(f"weights are not finite after step {self.state.global_step}")

    def _stop(self, reason: str) -> None:
        raise RecipeError(
            f"{reason}: training stops, and what is saved in {self.args.output_dir} stays as it is; lower learning_rate"
            f" ({self.args.learning_rate:g} now), or set max_grad_norm ({self.args.max_grad_norm:g} now)"
        )

    # ---- Saving: the trained weights in checkpoints, the complete stock model at the end ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as Trainer does, write the marker last, and only then remove older checkpoints."""
        self._check_weights()
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit, self.saving_checkpoint = self.args.save_total_limit, None, True
        if self.args.should_save:
            remove_marker(checkpoint)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit, self.saving_checkpoint = limit, False
        wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            mark_complete(checkpoint)
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)
        wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Save a checkpoint's weights, or, for `save_model`, the complete model: stock wherever that has the same logits."""
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if not self.saving_checkpoint:
            save_classifier(self._complete_model(state_dict), tokenizer, folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict() if state_dict is None else state_dict
        complete = self.features is None and not hasattr(self.model, "merge_and_unload")  # as Trainer does
        tensors = state if complete else {name: state[name] for name in trained_names(self.unwrapped)}
        # FSDP also saves all weights, in files of its own, and resumes from these.
        save_trained(tensors, folder, self._trained_on_top_of(complete or self.is_fsdp_enabled))
        self.classifier.config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    def _trained_on_top_of(self, complete: bool = False) -> dict[str, str]:
        """Return hashes of what a checkpoint is joined to again: the tokenizer, and, unless complete, the frozen weights."""
        hashes, tokenizer = {}, getattr(self.processing_class, "backend_tokenizer", None)
        if tokenizer is not None:
            rules = {**json.loads(tokenizer.to_str()), "truncation": None, "padding": None}  # which each call sets
            hashes["tokenizer"] = xxhash.xxh3_128_hexdigest(json.dumps(rules, sort_keys=True).encode())
        if not complete:
            digest = xxhash.xxh3_128()
            hash_parameters(digest, ((name, p) for name, p in self.unwrapped.named_parameters() if not p.requires_grad))
            hashes["base_model"] = digest.hexdigest()
        return hashes

    def _complete_model(self, state_dict: dict[str, torch.Tensor] | None) -> GPT2LastTokenClassifier:
        """Return the trained classifier on its own: adapters merged, shards (FSDP's `state_dict`) put together."""
        model = self.unwrapped
        if state_dict is not None and not hasattr(model, "merge_and_unload"):
            with torch.device("meta"):
                model = type(model)(model.config)
            model.load_state_dict(state_dict, assign=True)
        return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.unwrapped, Path(resume_from_checkpoint), self._trained_on_top_of())

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            self._use_features(self.features, self.cached_model)  # loading writes the trunk's weights too, as they were
        else:
            load_trained(self.unwrapped, Path(self.state.best_model_checkpoint), {})

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare as Trainer does; `save_strategy: best` asks this whether to save: after SIGTERM, in any case."""
        is_best = super()._determine_best_metric(metrics, trial)
        return is_best or self.stop_on_sigterm.stopping

"""RecipeTrainer: a drop-in Trainer whose runs are not lost; checkpoints of the trained weights, exact resume, safe stops.

Private methods of Trainer that it overrides, since there is no public hook (tests check that Trainer still calls each):
    _get_train_sampler     groups by length in an order that a resumed run finds again
    _get_eval_sampler      rows in their order, also where training groups them by length
    _run_epoch             a run that resumes from its last step, or from where patience ended it, takes no step more
    _save_checkpoint       the marker is written last, and only then older checkpoints go
    _load_from_checkpoint  the trained weights alone, onto the base model and tokenizer that they were trained on
    _load_best_model       the same
"""

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
import xxhash
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput, has_length, rotate_checkpoints

from recipe.distributed import any_process, check_sharding
from recipe.errors import RecipeError, as_recipe_error
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import save_classifier, save_tokenizer
from recipe.training.callbacks import StopOnSigterm
from recipe.training.checkpoints import (
    MARKER,
    complete_checkpoint,
    load_trained,
    mark_complete,
    save_trained,
    trained_names,
)
from recipe.training.features import FeatureCollator, check_rows_for_model, check_trunk
from recipe.training.run_folder import read_state
from recipe.training.trunk import classifier_of, hash_parameters

if TYPE_CHECKING:
    from recipe.hub.publish import Published

logger = logging.getLogger(__name__)


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """transformers' grouping by length, but its order depends on the seed and the epoch alone, so a resumed run finds it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator()
        self.generator.manual_seed(self.seed + 1_000_003 * self.epoch)
        return super().__iter__()


class DivergedError(RecipeError):
    """A loss or weights that are not finite; `reason` says which."""

    def __init__(self, reason: str, advice: str = ""):
        super().__init__(reason + advice)
        self.reason = reason


class RecipeTrainer(Trainer):
    """Trainer for GPT2LastTokenClassifier, plain or with peft adapters, and datasets, of `cache_features` or not.

    What it adds: checkpoints hold the trained weights alone, are marked once complete, and resume exactly; evaluation drops
    no row; a loss or weight that is not finite stops the run before it is saved; SIGTERM saves first; `save_model` writes
    the complete model, stock wherever that has the same logits.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        **keywords: Any,
    ):
        """Take what Trainer takes; raise RecipeError (a ValueError) for what would go wrong later, or in silence."""
        self.saving_checkpoint, self.train_sampler = False, None
        if args is not None and args.n_gpu > 1:  # DataParallel's replicas have no parameters to tell what is frozen
            logger.warning("one of %d GPUs is used: to use all, start with `accelerate launch`", args.n_gpu)
            args._n_gpu = 1
        # A field asks for a package that is not installed, or for a combination that Trainer refuses.
        with as_recipe_error((ImportError, RuntimeError, ValueError), "training cannot start", "change that argument"):
            super().__init__(model, args, *positional, **keywords)
        check_sharding(self.accelerator.state, self.model)
        own = positional[0] if positional else keywords.get("data_collator")
        self.data_collator = FeatureCollator(own or self.processing_class or self.data_collator)
        self._check_arguments()
        self.stop_on_sigterm = StopOnSigterm()
        self.add_callback(self.stop_on_sigterm)

    def _check_arguments(self) -> None:
        args, rows, classifier = self.args, self.train_dataset, self.classifier  # which raises for another model
        if args.dataloader_drop_last and has_length(rows) and len(rows) < args.train_batch_size:
            raise RecipeError(f"dataloader_drop_last drops all {len(rows)} training texts: take smaller batches")
        if args.dataloader_persistent_workers:  # Trainer's loader of the first dataset that is evaluated stays
            raise RecipeError("dataloader_persistent_workers would evaluate all datasets on the first: leave it out")
        if args.train_sampling_strategy == "batch_rebalance":  # batches of different sizes
            raise RecipeError("batch_rebalance makes batches whose texts would not count alike: take group_by_length")
        if args.neftune_noise_alpha and classifier.embeddings_frozen:
            raise RecipeError("neftune_noise_alpha adds noise to embeddings that train, and here none do: drop it")
        if isinstance(rows, datasets.Dataset):
            if "text" in rows.column_names and "input_ids" not in rows.column_names:
                raise RecipeError("train_dataset has texts and no input_ids: call tokenize(splits, tokenizer) first")
            check_rows_for_model(rows, classifier.config, "train")

    @property
    def unwrapped(self) -> nn.Module:
        """The user's model, without DDP, FSDP or torch.compile around it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def classifier(self) -> GPT2LastTokenClassifier:
        """The model under every wrapper, peft's too."""
        return classifier_of(self.unwrapped)

    # ---- Which rows, in which order: found again when a run resumes ----

    def get_train_dataloader(self) -> DataLoader:
        """Refuse rows that were cached from another trunk, or with other weights, than the model has."""
        evaluated = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        for dataset in (self.train_dataset, *evaluated):
            check_trunk(self.classifier, dataset)
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Refuse such rows here too, and drop no row, whatever `dataloader_drop_last` says of training."""
        if not self.is_in_train:  # else they were looked at before it
            dataset = self.eval_dataset if eval_dataset is None else eval_dataset
            check_trunk(self.classifier, self.eval_dataset[dataset] if isinstance(dataset, str) else dataset)
        with self._every_row():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Refuse such rows here too, and drop no row."""
        check_trunk(self.classifier, test_dataset)
        with self._every_row():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _every_row(self) -> Iterator[None]:
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
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
        if isinstance(self.train_sampler, SeededLengthGroupedSampler):
            self.train_sampler.epoch = epoch  # with several processes, accelerate's wrappers hide it from Trainer
        if self.state.global_step < self.state.max_steps and not self.control.should_training_stop:
            super()._run_epoch(epoch=epoch, **keywords)

    # ---- Training stops safely ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **keywords: Any) -> TrainOutput:
        """Train as Trainer does; on SIGTERM save a checkpoint and exit with code 143.

        Raises:
            RecipeError: a loss or weights that are not finite, a folder of a finished run, no complete checkpoint to resume.
        """
        folder = Path(self.args.output_dir)
        if (state := read_state(folder)) and state["finished"]:  # whose figures and splits belong to the model it holds
            raise RecipeError(f"output_dir {folder} holds a finished run of train.py: give another one")
        if resume_from_checkpoint:
            resume_from_checkpoint = complete_checkpoint(folder, resume_from_checkpoint)
        with self.stop_on_sigterm.installed():
            output = super().train(resume_from_checkpoint, *args, **keywords)
        self.check_weights()
        return output

    def check_optimizer(self) -> None:
        """Build the optimizer and its schedule once and discard them, to fail before a run starts."""
        if "layerwise" in self.args.optim:  # which hooks into the parameters when it is made
            return
        given = self.optimizer, self.lr_scheduler
        fix = "correct optim, optim_args, lr_scheduler_type or lr_scheduler_kwargs"
        with as_recipe_error(Exception, "the optimizer or its schedule cannot be made", fix):
            self.create_optimizer()
            self.create_scheduler(num_training_steps=max(self.args.max_steps, 1))
        self.optimizer, self.lr_scheduler = given

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **keywords: Any) -> torch.Tensor:
        """Take Trainer's step, and stop the run before the optimizer's at a loss that is not finite in any process."""
        loss = super().training_step(model, inputs, *args, **keywords)
        finite = bool(torch.isfinite(loss).all())
        if any_process(not finite):
            value = "not finite in another process" if finite else loss.item()
            self.stop_diverged(f"the loss is {value} at step {self.state.global_step + 1}")
        return loss

    def check_weights(self) -> None:
        """Raise RecipeError for weights that are not finite (a finite loss can give such gradients) before they are saved."""
        trained = [p.to_local() if isinstance(p, DTensor) else p for p in self.model.parameters() if p.requires_grad]
        if any_process(not all(torch.isfinite(parameter).all() for parameter in trained)):  # each has shards of its own
            self.stop_diverged(f"weights are not finite after step {self.state.global_step}")

    def stop_diverged(self, reason: str) -> None:
        """Raise DivergedError, with what helps against divergence."""
        args = self.args
        now = f"learning_rate ({args.learning_rate:g} now), or set max_grad_norm ({args.max_grad_norm:g} now)"
        kept = f": training stops, and what is saved in {args.output_dir} stays as it is"
        raise DivergedError(reason, f"{kept}; lower {now}")

    # ---- Saving: the trained weights in checkpoints, the complete stock model at the end ----

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.check_weights()
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit, self.saving_checkpoint = self.args.save_total_limit, None, True
        if self.args.should_save:
            (checkpoint / MARKER).unlink(missing_ok=True)  # before the checkpoint is written again
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit, self.saving_checkpoint = limit, False
        self.accelerator.wait_for_everyone()  # each process writes its own random state
        if self.args.should_save:
            mark_complete(checkpoint)
            rotate_checkpoints(str(folder), limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the complete model, stock wherever that has the same logits; in a checkpoint, the trained weights."""
        divided = self.is_fsdp_enabled or self.is_deepspeed_enabled
        state = self.accelerator.get_state_dict(self.model_wrapped) if divided else None
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        tokenizer = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if not self.saving_checkpoint:
            save_classifier(self._complete_model(state), tokenizer, folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        state = self.unwrapped.state_dict() if state is None else state
        # FSDP also saves all weights, in files of its own, and resumes from these.
        save_trained({name: state[name] for name in trained_names(self.unwrapped)}, folder, self._trained_on_top_of())
        self.classifier.config.save_pretrained(folder)
        if tokenizer is not None:
            save_tokenizer(tokenizer, folder)

    def _trained_on_top_of(self) -> dict[str, str]:
        """Return hashes of what a checkpoint is joined to again: the tokenizer, and the frozen weights."""
        hashes, tokenizer = {}, getattr(self.processing_class, "backend_tokenizer", None)
        if tokenizer is not None:
            rules = {**json.loads(tokenizer.to_str()), "truncation": None, "padding": None}  # which each call sets
            hashes["tokenizer"] = xxhash.xxh3_128_hexdigest(json.dumps(rules, sort_keys=True).encode())
        if not self.is_fsdp_enabled:
            digest = xxhash.xxh3_128()
            hash_parameters(digest, [(n, p) for n, p in self.unwrapped.named_parameters() if not p.requires_grad])
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
        else:
            load_trained(self.unwrapped, Path(self.state.best_model_checkpoint), {})

    # ---- The Hub: one upload of the finished model, when it is asked for ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make no repository yet, as Trainer would before it trains: `push_to_hub` does."""

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing yet: a checkpoint is no model."""

    def push_to_hub(self, commit_message: str = "Upload the classifier", **metadata: Any) -> "Published | None":
        """Save the model and upload it, its card, pictures and figures, in one commit; return where it went (see hub/publish.py).

        Where it goes is said by the fields `hub_...`; it is private unless `hub_private_repo` is false.

        Args:
            metadata: fields of the card's front matter, such as `license`, `language` and `tags`.
        """
        from recipe.hub.publish import publish  # which loads the report and scikit-learn

        self.save_model()
        if not self.is_world_process_zero():
            return None
        args = self.args
        where = (args.output_dir, args.hub_model_id, args.hub_token, args.hub_private_repo, args.hub_revision)
        return publish(*where, commit_message, **metadata)

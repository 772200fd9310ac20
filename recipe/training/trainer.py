"""RecipeTrainer: a drop-in Trainer that runs the frozen trunk once per text and trains the tail on its output."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler
from transformers import DataCollatorWithPadding, PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import TrainOutput, has_length, rotate_checkpoints

from recipe.data.tokenization import PaddingCollator
from recipe.distributed import any_process, check_sharding, wait_for_everyone
from recipe.errors import RecipeError, one_line
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import save_classifier
from recipe.training.cache_policy import CachePolicy, count_reads, keep_freed_memory
from recipe.training.callbacks import StopOnSigterm
from recipe.training.checkpoints import (
    WEIGHTS_FILE,
    last_complete_checkpoint,
    load_trained,
    mark_complete,
    remove_marker,
    trained_names,
)
from recipe.training.feature_cache import FeatureCollator, TrunkFeatures, has_token_ids, trunk_key, trunk_versions
from recipe.training.sampling import SeededLengthGroupedSampler

logger = logging.getLogger(__name__)


class RecipeTrainer(Trainer):
    """Trainer for GPT2LastTokenClassifier, plain or with peft adapters: the same results, at the tail's cost.

    In a script written for this model and Trainer, changing the class name changes the speed and nothing else. What is
    frozen decides: `train` runs the trunk (embeddings and leading frozen blocks) once per text of train_dataset and
    eval_dataset and caches its output; batches of cached texts then carry it as `trunk_output`. Other texts go through the
    complete model.

    What it adds: checkpoints hold the trained weights alone where the trunk is cached, are marked once complete, and resume
    exactly; evaluation drops no row; a loss or weight that is not finite stops the run before it is saved; SIGTERM saves
    first; `save_model` writes the complete model, stock wherever that has the same logits.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        *positional: Any,
        feature_cache: str = "auto",
        feature_cache_dir: str | None = None,
        feature_cache_max_gb: float | None = None,
        trunk_dtype: str = "float32",
        **keywords: Any,
    ):
        """Take what Trainer takes, and the options of CachePolicy.

        Raises:
            RecipeError (a ValueError): another model, or options that its filter contradicts.
        """
        self.cache_policy = CachePolicy(feature_cache, feature_cache_dir, feature_cache_max_gb, trunk_dtype)
        self.features: TrunkFeatures | None = None
        self.cached_key: tuple | None = None  # of the trunk that the features came from
        self.cached_datasets: list = []
        self.cached_model = self.cached_versions = None
        self.saving_checkpoint = False
        self.train_sampler: Sampler | None = None
        if args is not None and args.n_gpu > 1:  # DataParallel's replicas have no parameters to tell what is frozen
            logger.warning("one of %d GPUs is used: to use all, start with `accelerate launch`", args.n_gpu)
            args._n_gpu = 1
        try:
            super().__init__(model, args, *positional, **keywords)
        except (ImportError, RuntimeError) as error:  # a field asks for a package that is not installed
            raise RecipeError(f"training cannot start: {one_line(error)}") from error
        self.cache_policy.check(self.classifier)
        check_sharding(self.accelerator.state, self.model)
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

    @property
    def unwrapped(self) -> nn.Module:
        """The user's model, without DDP, FSDP or torch.compile around it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def classifier(self) -> GPT2LastTokenClassifier:
        """The model under every wrapper, peft's too."""
        model = self.unwrapped
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not isinstance(model, GPT2LastTokenClassifier):
            raise RecipeError(f"RecipeTrainer trains GPT2LastTokenClassifier, not {type(model).__name__}: use Trainer")
        return model

    # ---- The trunk, once per text ----

    def get_train_dataloader(self) -> DataLoader:
        """Fill the feature cache first, where it is used: here each run, trial and retry passes before its first step."""
        self._cache_features()
        return super().get_train_dataloader()

    def _cache_features(self) -> None:
        """Compute the trunk's output for the training and evaluation texts that are not cached yet."""
        model, policy, train = self.classifier, self.cache_policy, self.train_dataset
        evaluated = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"eval": self.eval_dataset}
        evaluated = evaluated.values() if self.args.eval_strategy != "no" else ()
        cacheable = [dataset for dataset in (train, *evaluated) if has_token_ids(dataset)]
        sharded = isinstance(next(model.parameters()), DTensor)  # by an earlier call: its trunk cannot run alone
        if policy.choice == "off" or model.split_depth == 0 or not has_token_ids(train) or sharded:
            reason = "train_dataset has no length, or no input_ids" if model.split_depth else "no trunk is frozen"
            policy.refuse_if_required("FSDP has divided the model already" if sharded else reason)
            logger.info("Feature cache: not used")
            self._use_features(None, None)
            return
        dtype = policy.dtype(self.args.device)
        key = (trunk_key(model, dtype), policy)
        if key == self.cached_key and list(map(id, cacheable)) == list(map(id, self.cached_datasets)):
            self._use_features(self.features, model)
            return
        self.cached_key, self.cached_datasets = key, cacheable
        self._use_features(None, None)
        features = policy.compute(model, cacheable, self.args.device, count_reads(len(train), self.args))
        if features is not None:
            keep_freed_memory()
            if self.args.dataloader_num_workers == 0 and features.to_device(self.args.device):
                self.args.dataloader_pin_memory = False  # what lies on the device cannot be pinned
        self._use_features(features, model)

    def _use_features(self, features: TrunkFeatures | None, model: GPT2LastTokenClassifier | None) -> None:
        """Have dataloaders pass these rows, which are the model's as its trunk is now, or none."""
        self.features, self.cached_model = features, model
        self.cached_versions = trunk_versions(model) if features is not None else None
        self.classifier.cached_depth = None if features is None else model.split_depth
        self._eval_dataloaders = {}  # persistent workers hold older rows

    def _get_dataloader(self, *args: Any, is_training: bool = False, **keywords: Any) -> DataLoader:
        """Add the cached rows; and let `dataloader_drop_last` drop training rows alone."""
        collator, drop_last = self.data_collator, self.args.dataloader_drop_last
        model = self.classifier
        if self.features is not None and model is self.cached_model and trunk_versions(model) == self.cached_versions:
            self.data_collator = FeatureCollator(collator, self.features)
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **keywords)
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drop_last

    def _prepare_for_training(self, *args: Any, **keywords: Any) -> tuple[nn.Module, DataLoader]:
        """Wrap the model as Trainer does; FSDP puts shards in place of its weights, which are still those of the cache."""
        prepared = super()._prepare_for_training(*args, **keywords)
        self._use_features(self.features, self.cached_model)
        return prepared

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Under FSDP, whose processes put each block together jointly, all of them run the trunk if one has to."""
        if self.is_fsdp_enabled and any_process("trunk_output" not in inputs):
            inputs = {name: value for name, value in inputs.items() if name != "trunk_output"}
        return super()._prepare_inputs(inputs)

    # ---- Order of rows: found again when a run resumes ----

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
            RecipeError: a loss or weights that are not finite.
        """
        resume = keywords.get("resume_from_checkpoint", args[0] if args else None)
        if resume is True and (complete := last_complete_checkpoint(Path(self.args.output_dir))):
            args, keywords = args[1:], {**keywords, "resume_from_checkpoint": complete}
        with self.stop_on_sigterm.installed():
            output = super().train(*args, **keywords)
        self._check_weights()
        return output

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
        state = self.model.state_dict() if state_dict is None else state_dict
        folder.mkdir(parents=True, exist_ok=True)
        complete = self.features is None and not hasattr(self.model, "merge_and_unload")  # as Trainer does
        tensors = {
            name: state[name].detach().contiguous() for name in (state if complete else trained_names(self.unwrapped))
        }
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        self.classifier.config.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)

    def _complete_model(self, state_dict: dict[str, torch.Tensor] | None) -> GPT2LastTokenClassifier:
        """Return the trained classifier on its own: adapters merged, shards (FSDP's `state_dict`) put together."""
        model = self.unwrapped
        if state_dict is not None:
            with torch.device("meta"):
                model = type(model)(model.config)
            model.load_state_dict(state_dict, assign=True)
        return copy.deepcopy(model).merge_and_unload() if hasattr(model, "merge_and_unload") else model

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_trained(self.unwrapped, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
            self._use_features(self.features, self.cached_model)  # loading writes the trunk's weights too, as they were
        else:
            load_trained(self.unwrapped, Path(self.state.best_model_checkpoint))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing yet: a checkpoint is no model. `push_to_hub` at the end pushes the complete one."""

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Compare as Trainer does; `save_strategy: best` asks this whether to save: after SIGTERM, in any case."""
        is_best = super()._determine_best_metric(metrics, trial)
        return is_best or self.stop_on_sigterm.stopping

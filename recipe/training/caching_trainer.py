"""CachingTrainer: a Trainer that runs the frozen trunk once per text and trains the tail on its output."""

import itertools
import logging
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainingArguments

from recipe.distributed import any_process, check_sharding, gather_in_order
from recipe.errors import RecipeError, explain
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.training.cache_policy import CachePolicy, count_reads, keep_freed_memory
from recipe.training.feature_cache import FeatureCollator, TrunkFeatures, has_token_ids, trunk_key, trunk_versions

logger = logging.getLogger(__name__)


class CachingTrainer(Trainer):
    """Trainer for GPT2LastTokenClassifier, plain or with peft adapters, at the tail's cost.

    What is frozen decides: `train` runs the trunk (embeddings and leading frozen blocks) once per text of train_dataset and
    eval_dataset and caches its output; batches of cached texts then carry it as `trunk_output`. Other texts go through the
    complete model.
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
        if args is not None and args.n_gpu > 1:  # DataParallel's replicas have no parameters to tell what is frozen
            logger.warning("one of %d GPUs is used: to use all, start with `accelerate launch`", args.n_gpu)
            args._n_gpu = 1
        # A field asks for a package that is not installed, or for a combination that Trainer refuses.
        with explain((ImportError, RuntimeError, ValueError), "training cannot start", "change that argument"):
            super().__init__(model, args, *positional, **keywords)
        self.cache_policy.check(self.classifier)
        check_sharding(self.accelerator.state, self.model)

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
        reads = count_reads(len(train), self.args)
        order = (self.args.seed, self.args.data_seed) if reads < 1 else ()  # of which rows a short run reads
        key = (trunk_key(model, dtype), policy, reads, order)
        if key == self.cached_key and list(map(id, cacheable)) == list(map(id, self.cached_datasets)):
            self._use_features(self.features, model)
            return
        self.cached_key, self.cached_datasets = key, cacheable
        self._use_features(None, None)
        rows = self._rows_to_read()
        needed = cacheable if rows is None else [train.select(rows), *cacheable[1:]]
        features = policy.compute(model, needed, self.args.device, reads)
        if features is not None:
            keep_freed_memory()
            if self.args.dataloader_num_workers == 0 and features.to_device(self.args.device):
                self.args.dataloader_pin_memory = False  # what lies on the device cannot be pinned
        self._use_features(features, model)

    def _rows_to_read(self) -> list[int] | None:
        """Return the training rows that a run of max_steps will read, where that is less than all and can be told."""
        if count_reads(len(self.train_dataset), self.args) >= 1 or not hasattr(self.train_dataset, "select"):
            return None
        batches = self.args.max_steps * self.args.gradient_accumulation_steps
        with torch.random.fork_rng(devices=[]):
            sampler = super().get_train_dataloader().batch_sampler
            first, again = ([*itertools.chain(*itertools.islice(sampler, batches))] for _ in range(2))
        if any_process(first != again):  # an order that is drawn anew each time
            return None
        return sorted(set(gather_in_order(first)))

    def _use_features(self, features: TrunkFeatures | None, model: GPT2LastTokenClassifier | None) -> None:
        """Have dataloaders pass these rows, which are the model's as its trunk is now, or none."""
        self.features, self.cached_model = features, model
        self.cached_versions = trunk_versions(model) if features is not None else None
        self.classifier.cached_depth = None if features is None else model.split_depth
        self._eval_dataloaders = {}  # persistent workers hold older rows

    def _get_dataloader(self, *args: Any, **keywords: Any) -> DataLoader:
        """Add the cached rows to the batches, unless the model or its trunk is another one by now."""
        collator, model = self.data_collator, self.classifier
        if self.features is not None and model is self.cached_model and trunk_versions(model) == self.cached_versions:
            self.data_collator = FeatureCollator(collator, self.features)
        try:
            return super()._get_dataloader(*args, **keywords)
        finally:
            self.data_collator = collator

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

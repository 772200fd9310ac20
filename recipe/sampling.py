"""Batches of like lengths that can be drawn again: `train_sampling_strategy: group_by_length`, seeded by epoch."""

import torch
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """transformers' own grouping, but its order depends on the seed and the epoch alone, so a resumed run finds it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator = torch.Generator()
        self.generator.manual_seed(self.seed + 1_000_003 * epoch)


class RecipeTrainer(Trainer):
    """Trainer, save for how it groups by length (seeded by epoch in training, not at all in evaluation) and counts.

    Its own grouping draws from the global random state, which a resumed epoch does not find again.
    """

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # From self.train_dataset: the one that is passed has lost the columns that the model does not take.
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return SeededLengthGroupedSampler(batch_size, list(self.train_dataset["length"]), seed)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """As in Trainer, which counts the numbers of the main input, by tokens: `hidden` has n_embd numbers a token."""
        operations = super().floating_point_ops(inputs)
        return operations // inputs["hidden"].shape[-1] if "hidden" in inputs else operations

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

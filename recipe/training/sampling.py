"""Batches of similar lengths that a resumed run finds again: `train_sampling_strategy: group_by_length`, seeded by epoch."""

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class SeededLengthGroupedSampler(LengthGroupedSampler):
    """transformers' grouping by length, but its order depends on the seed and the epoch alone, so a resumed run finds it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator = torch.Generator()
        self.generator.manual_seed(self.seed + 1_000_003 * epoch)

"""A loss that weighs each label by its inverse frequency: a `compute_loss_func` for Trainer."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F


def balanced_loss(labels: Sequence[int], num_labels: int) -> Callable[..., torch.Tensor]:
    """Return a loss for imbalanced labels, weighted by scikit-learn's `balanced`: rows / (labels * rows of the label).

    Weighted texts are summed and divided by their number, not by their weights: so parts of a batch, accumulated or in
    several processes, average to the complete batch's loss.

    Args:
        labels: of the training rows; a label that is absent gets weight 1.
    """
    from sklearn.utils.class_weight import compute_class_weight

    present = np.unique(labels)
    weights = torch.ones(num_labels)
    weights[present] = torch.tensor(compute_class_weight("balanced", classes=present, y=labels), dtype=torch.float32)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        logits = outputs["logits"]
        each = F.cross_entropy(logits, labels, weight=weights.to(logits), reduction="none")
        return each.sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss

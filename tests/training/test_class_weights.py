"""The balanced loss, against scikit-learn's weights and a loss over the complete batch."""

import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional as F

from recipe.training.steps import balanced_loss

LABELS = [0, 0, 0, 0, 1, 1, 3]  # label 2 never occurs


def test_loss_is_the_mean_of_weighted_cross_entropies():
    torch.manual_seed(0)
    logits, labels = torch.randn(7, 4), torch.tensor(LABELS)
    weights = torch.tensor(compute_sample_weight("balanced", LABELS), dtype=torch.float32)
    expected = (F.cross_entropy(logits, labels, reduction="none") * weights).mean()
    loss = balanced_loss(LABELS, 4)
    torch.testing.assert_close(loss({"logits": logits}, labels), expected)
    parts = [loss({"logits": logits[rows]}, labels[rows], num_items_in_batch=7) for rows in (slice(3), slice(3, 7))]
    torch.testing.assert_close(sum(parts), expected)


def test_absent_label_weighs_one():
    logits, labels = torch.zeros(1, 4), torch.tensor([2])
    torch.testing.assert_close(balanced_loss(LABELS, 4)({"logits": logits}, labels), torch.tensor(4.0).log())

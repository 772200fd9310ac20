import numpy as np
from conftest import make_texts, tiny_folder
from saved_models import LABELS, to_dataset

from recipe import GPT2LastTokenClassifier
from recipe.config import parse_arguments
from recipe.experiments.fitting import predict_after_training


def test_texts_of_both_splits_come_from_the_cache(tmp_path, monkeypatch):
    """The second training runs no trunk, and has the logits of one without a cache."""
    splits = {
        "train": to_dataset(make_texts(40, LABELS), LABELS),
        "test": to_dataset(make_texts(20, LABELS, 1), LABELS),
    }
    fields = ["--model_name_or_path", str(tiny_folder()), "--train_file", "unused", "--output_dir", "unused"]
    fields += ["--num_train_epochs", "2", "--learning_rate", "1e-3", "--feature_cache_dir", str(tmp_path)]
    model_args, data_args, training_args = parse_arguments(fields)
    runs, trunk = [], GPT2LastTokenClassifier.trunk

    def counted(self, input_ids, depth=None):
        runs.append(len(input_ids))
        return trunk(self, input_ids, depth)

    monkeypatch.setattr(GPT2LastTokenClassifier, "trunk", counted)
    first = predict_after_training(model_args, data_args, training_args, splits, seed=3)
    assert sum(runs) == 60
    again = predict_after_training(model_args, data_args, training_args, splits, seed=3)
    assert sum(runs) == 60
    np.testing.assert_array_equal(again, first)
    assert (predict_after_training(model_args, data_args, training_args, splits, seed=4) != first).any()
    model_args.feature_cache = "off"
    np.testing.assert_allclose(
        predict_after_training(model_args, data_args, training_args, splits, seed=3), first, atol=1e-4
    )
    assert sum(runs) > 60

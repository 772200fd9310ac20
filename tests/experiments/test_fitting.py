import shutil

import numpy as np
import pytest
import torch
from conftest import make_texts, tiny_folder
from saved_models import LABELS, three_label_run, to_dataset

from recipe import GPT2LastTokenClassifier
from recipe.config import parse_arguments
from recipe.experiments.fitting import make_model, make_trainer, predict_after_training


def arguments_for(model, *fields):
    return parse_arguments(["--model_name_or_path", str(model), "--train_file", "x", "--output_dir", "x", *fields])


def test_each_training_has_a_fresh_head_though_the_base_is_a_classifier_of_the_labels():
    """By GPT-2's rule: weights from a normal distribution with the config's deviation, biases 0."""
    arguments, base = arguments_for(three_label_run()), GPT2LastTokenClassifier.from_pretrained(three_label_run())
    heads = []
    for seed in (1, 1, 2):
        with make_trainer(*arguments, {"train": to_dataset(make_texts(20, LABELS), LABELS)}, seed) as trainer:
            heads.append(trainer.model.score.weight.detach().clone())
            assert not trainer.model.score.bias.any()
            assert torch.equal(trainer.model.transformer.h[-1].ln_1.weight, base.transformer.h[-1].ln_1.weight)
    assert torch.equal(heads[0], heads[1])
    for other in (heads[2], base.score.weight):
        assert (heads[0] != other).all()
    assert heads[0].std().item() == pytest.approx(base.config.initializer_range, rel=0.15)


def test_a_model_is_train_pys(tmp_path):
    """The head of a classifier of these labels is kept, its threshold and windows are not; lora_r puts adapters onto what trains."""
    base = GPT2LastTokenClassifier.from_pretrained(three_label_run())
    model = make_model(arguments_for(three_label_run())[0], LABELS, 0)
    assert torch.equal(model.score.weight, base.score.weight)
    base.config.update({"decision_threshold": 0.9, "window": 16, "window_overlap": 4})
    base.save_pretrained(tmp_path)
    shutil.copy(three_label_run() / "tokenizer.json", tmp_path)
    config = make_model(arguments_for(tmp_path)[0], LABELS, 0, fresh_head=True).config  # which peers.py saves
    assert (config.decision_threshold, config.window) == (None, None)
    assert model.split_depth == base.config.n_layer - 1
    pytest.importorskip("peft")
    adapted = make_model(arguments_for(three_label_run(), "--lora_r", "2")[0], LABELS, 0)
    assert {parameter.shape[0] for name, parameter in adapted.named_parameters() if "lora_A" in name} == {2}


@pytest.mark.parametrize("epochs", ["1", "2"])
def test_texts_of_both_splits_come_from_the_cache(tmp_path, monkeypatch, epochs):
    """The second training runs no trunk, and has the logits of one without a cache."""
    splits = {
        "train": to_dataset(make_texts(40, LABELS), LABELS),
        "test": to_dataset(make_texts(20, LABELS, 1), LABELS),
    }
    fields = ["--num_train_epochs", epochs, "--learning_rate", "1e-3", "--feature_cache_dir", str(tmp_path)]
    model_args, data_args, training_args = arguments_for(tiny_folder(), *fields)
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

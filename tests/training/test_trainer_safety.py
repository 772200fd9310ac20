"""What RecipeTrainer refuses, stops at, or leaves uncached, so that no result is wrong in silence."""

import logging

import pytest
import torch
from datasets import Dataset
from trainer_helpers import TRAIN, arguments, collate, frozen_model, make_trainer
from transformers import (
    Trainer,
    TrainerCallback,
)

from recipe import cache_features
from recipe.errors import RecipeError
from recipe.model.export import to_stock
from recipe.training.callbacks import EarlyStopping
from recipe.training.trainer import RecipeTrainer


def test_a_filter_that_changes_after_caching_is_refused(tmp_path):
    class Unfreeze(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **keywords):
            model.transformer.h[2].requires_grad_(True)

    trainer = make_trainer("cached", tmp_path, callbacks=[Unfreeze()])
    with pytest.raises(RecipeError, match="the trunk was cached with 3 frozen blocks, but now 2 are"):
        trainer.train()


def test_another_model_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="not GPT2LastTokenClassifier: use transformers' Trainer"):
        RecipeTrainer(to_stock(frozen_model()), arguments(tmp_path, eval_strategy="no"))


def test_a_trunk_that_changed_after_caching_is_refused(tmp_path):
    """Another filter, an edit of `.data`, which torch counts as no change, or another model in the trainer's place."""
    for change in (
        lambda model: model.transformer.h[2].requires_grad_(True),
        lambda model: model.transformer.h[1].mlp.c_fc.weight.data.add_(0.5),
        lambda model: model.transformer.wte.weight.data.mul_(-1),
    ):
        for act in ("train", "evaluate", "predict"):
            trainer = make_trainer("cached", tmp_path)
            change(trainer.model)
            with pytest.raises(RecipeError, match=r"the trunk was cached with .*: call cache_features again"):
                getattr(trainer, act)(*([trainer.eval_dataset] if act == "predict" else []))


def test_validation_rows_of_other_weights_are_refused_before_training(tmp_path):
    trainer, other = make_trainer("plain", tmp_path), frozen_model()
    with torch.no_grad():
        other.transformer.wte.weight.mul_(1.1)
    trainer.eval_dataset = cache_features(other, trainer.eval_dataset, tmp_path / "cache", when="on")
    with pytest.raises(RecipeError, match="the trunk was cached with other weights, or"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_noise_for_frozen_embeddings_is_refused(tmp_path):
    fields = {"arguments_": {"neftune_noise_alpha": 5.0}}
    with pytest.raises(RecipeError, match="neftune_noise_alpha adds noise to embeddings that train, and here"):
        make_trainer("cached", tmp_path, **fields)
    losses = []
    for alpha in (None, 5.0):  # where they train, it does something
        trainer = make_trainer("plain", tmp_path, frozen_model(["*"]), arguments_={"neftune_noise_alpha": alpha})
        losses.append(trainer.train().training_loss)
    assert losses[0] != losses[1]


def test_texts_without_tokens_are_refused_with_the_way_to_make_them(tmp_path):
    texts = Dataset.from_dict({"text": ["a", "b"], "labels": [0, 1]})
    with pytest.raises(RecipeError, match=r"no input_ids: call tokenize\(splits, tokenizer\) first"):
        make_trainer("plain", tmp_path, train_dataset=texts)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_sampling_strategy": "batch_rebalance"}, "whose texts would not count alike: take group_by_length"),
        ({"dataloader_drop_last": True, "per_device_train_batch_size": 50}, "drops all 37 training texts"),
        (
            {"dataloader_persistent_workers": True, "dataloader_num_workers": 1},
            "would evaluate all datasets on the first",
        ),
    ],
)
def test_loaders_that_would_change_the_figures_are_refused(tmp_path, fields, message):
    with pytest.raises(RecipeError, match=message):
        make_trainer("cached", tmp_path, arguments_=fields)


def test_an_optimizer_of_ones_own_is_the_one_that_steps(tmp_path):
    model = frozen_model()
    own = torch.optim.SGD(model.score.parameters(), lr=0.0)
    args = arguments(tmp_path, eval_strategy="no")
    trainer = RecipeTrainer(model, args, train_dataset=TRAIN, data_collator=collate, optimizers=(own, None))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer.check_optimizer()
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_second_training_starts_its_patience_anew(tmp_path):
    fields = {"learning_rate": 0.0, "num_train_epochs": 4, "eval_strategy": "epoch", "save_strategy": "no"}
    fields |= {"metric_for_best_model": "loss", "greater_is_better": False}
    trainer = make_trainer("cached", tmp_path, callbacks=[EarlyStopping(1)], arguments_=fields)
    first, second = trainer.train().global_step, trainer.train().global_step
    assert first == second > 0


def test_one_gpu_of_several_is_used_without_a_launcher(tmp_path, caplog):
    args = arguments(tmp_path, eval_strategy="no")
    args._n_gpu = 2  # as TrainingArguments counts them
    caplog.set_level(logging.WARNING, logger="recipe")
    trainer = RecipeTrainer(frozen_model(), args, train_dataset=TRAIN)
    assert trainer.args.n_gpu == 1
    assert "one of 2 GPUs is used: to use all, start with `accelerate launch`" in caplog.text


def test_data_parallel_is_refused_by_name():
    """The replicas that nn.DataParallel makes have no parameters, so nothing would train, silently."""
    replica = frozen_model()._replicate_for_data_parallel()
    with pytest.raises(RecipeError, match=r"does not train under nn\.DataParallel: start with `accelerate launch`"):
        replica(input_ids=torch.tensor([[1, 2]]))


@pytest.mark.parametrize("path", ["plain", "cached"])
def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path, path):
    class Ruin(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **keywords):
            if state.global_step == 12:
                model.score.bias.data[0] = float("nan")

    trainer = make_trainer(path, tmp_path, callbacks=[Ruin()], arguments_={"save_strategy": "epoch"})
    match = r"the loss is nan at step 13: training stops.*lower learning_rate \(0.01 now\)"
    with pytest.raises(RecipeError, match=match):
        trainer.train()
    assert trainer.state.global_step == 12
    assert [folder.name for folder in (tmp_path / path).glob("checkpoint-*")] == ["checkpoint-10"]


def test_weights_that_are_not_finite_replace_nothing(tmp_path):
    """Gradients may overflow though the loss did not, and no later step would show it."""

    class RuinTheLast(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **keywords):
            if state.global_step == 20:
                model.score.bias.data[0] = float("inf")

    trainer = make_trainer("cached", tmp_path, callbacks=[RuinTheLast()], arguments_={"save_strategy": "epoch"})
    with pytest.raises(RecipeError, match="weights are not finite after step 20"):
        trainer.train()
    assert [folder.name for folder in (tmp_path / "cached").glob("checkpoint-*")] == ["checkpoint-10"]


def test_resuming_by_true_takes_the_last_complete_checkpoint(tmp_path):
    fields = {"arguments_": {"save_strategy": "steps", "save_steps": 7}}
    trainer = make_trainer("cached", tmp_path, **fields)
    trainer.train()
    (tmp_path / "cached" / "checkpoint-14" / "complete.json").unlink()
    (tmp_path / "cached" / "checkpoint-14" / "optimizer.pt").unlink()
    (tmp_path / "cached" / "checkpoint-20" / "complete.json").unlink()
    resumed = make_trainer("cached", tmp_path, **fields)
    steps = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, **keywords):
            steps.append(state.global_step)

    resumed.add_callback(Watch())
    resumed.train(resume_from_checkpoint=True)
    assert steps[0] == 7
    for a, b in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_missing_package_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match=r"training cannot start \(.*wandb"):
        RecipeTrainer(frozen_model(), arguments(tmp_path, report_to="wandb", eval_strategy="no"))


def test_no_complete_checkpoint_is_nothing_to_resume_from(tmp_path):
    """Trainer by itself would take the last one, complete or not."""
    fields = {"arguments_": {"save_strategy": "steps", "save_steps": 7}}
    make_trainer("cached", tmp_path, **fields).train()
    for marker in tmp_path.rglob("complete.json"):
        marker.unlink()
    for resume in (True, str(tmp_path / "cached" / "checkpoint-7")):
        with pytest.raises(RecipeError, match="no complete checkpoint"):
            make_trainer("cached", tmp_path, **fields).train(resume_from_checkpoint=resume)


def test_rows_that_the_model_cannot_read_are_refused_before_training(tmp_path):
    for labels in ([0, 1, 3], [0, 1, -100], [0.5, 1.0, 1.5]):
        rows = Dataset.from_dict({"input_ids": [[1], [2], [3]], "labels": labels})
        with pytest.raises(RecipeError, match="label"):
            RecipeTrainer(frozen_model(), arguments(tmp_path, eval_strategy="no"), collate, train_dataset=rows)


def test_trainer_still_calls_the_private_methods_that_are_overridden(tmp_path, monkeypatch):
    """A release of transformers that renames one would leave our part out, without a word."""
    names = {name for name in vars(RecipeTrainer) if name.startswith("_") and hasattr(Trainer, name)}
    names -= {"__init__", "__module__", "__doc__"}
    names -= {"_push_from_checkpoint"}  # of uploads, which test_publish.py counts
    assert names == {
        "_get_train_sampler",
        "_get_eval_sampler",
        "_run_epoch",
        "_save_checkpoint",
        "_load_from_checkpoint",
        "_load_best_model",
    }
    called = set()

    def watch(name, original):
        def watched(self, *args, **keywords):
            called.add(name)
            return original(self, *args, **keywords)

        return watched

    fields = {"save_strategy": "epoch", "load_best_model_at_end": True}
    make_trainer("plain", tmp_path, arguments_=fields).train()
    for name in names:
        monkeypatch.setattr(RecipeTrainer, name, watch(name, getattr(RecipeTrainer, name)))
    trainer = make_trainer("plain", tmp_path, arguments_=fields)
    trainer.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-10"))
    assert called == names

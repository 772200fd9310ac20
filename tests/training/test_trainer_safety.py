"""What RecipeTrainer refuses, stops at, or leaves uncached, so that no result is wrong in silence."""

import logging

import pytest
import torch
from trainer_helpers import EVAL, OTHER, TRAIN, RowsOfLists, arguments, collate, frozen_model, make_trainer
from transformers import (
    TrainerCallback,
)

from recipe.errors import RecipeError
from recipe.model.export import to_stock
from recipe.training.cache_policy import CachePolicy
from recipe.training.feature_cache import FeatureCollator
from recipe.training.trainer import RecipeTrainer


def test_a_filter_that_changes_after_caching_is_refused(tmp_path):
    class Unfreeze(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **keywords):
            model.transformer.h[2].requires_grad_(True)

    trainer = make_trainer("cached", tmp_path, callbacks=[Unfreeze()])
    with pytest.raises(RecipeError, match="the trunk was cached with 3 frozen blocks, but now 2 are"):
        trainer.train()


def test_options_that_contradict_the_filter_are_refused(tmp_path):
    model = frozen_model(["*"])
    with pytest.raises(RecipeError, match="feature_cache is on, but the first block trains"):
        RecipeTrainer(model, arguments(tmp_path, eval_strategy="no"), feature_cache="on")
    with pytest.raises(RecipeError, match="trunk_dtype is bfloat16, but the trunk is not cached"):
        RecipeTrainer(
            frozen_model(), arguments(tmp_path, eval_strategy="no"), feature_cache="off", trunk_dtype="bfloat16"
        )
    with pytest.raises(RecipeError, match="feature_cache is 'maybe': take one of auto, on, off"):
        RecipeTrainer(model, arguments(tmp_path, eval_strategy="no"), feature_cache="maybe")
    with pytest.raises(RecipeError, match="RecipeTrainer trains GPT2LastTokenClassifier, not GPT2ForSequence"):
        RecipeTrainer(to_stock(model), arguments(tmp_path, eval_strategy="no"))


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


def test_batches_with_an_unknown_text_go_through_the_whole_model(tmp_path):
    trainer = make_trainer("cached", tmp_path)
    trainer.train()
    collator = FeatureCollator(collate, trainer.features)
    assert "trunk_output" in collator([TRAIN[0], EVAL[0]])
    assert "trunk_output" not in collator([TRAIN[0], OTHER[0]])


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


def test_nothing_is_cached_where_nothing_is_frozen_or_the_cache_is_off(tmp_path):
    for patterns, choice in ((["*"], "auto"), (["transformer.h.0.*", "score.*"], "auto"), (["score.*"], "off")):
        folder = tmp_path / f"{patterns[0]}{choice}".replace("*", "all")
        trainer = RecipeTrainer(
            frozen_model(patterns),
            arguments(folder, max_steps=1),
            collate,
            train_dataset=TRAIN,
            eval_dataset=EVAL,
            feature_cache=choice,
            feature_cache_dir=str(folder / "cache"),
        )
        trainer.train()
        assert trainer.features is None
        assert not list(folder.rglob("*.arrow"))


def test_cached_rows_are_not_used_for_another_model_or_a_changed_trunk(tmp_path):
    """A model that is put in the trainer's place, or a frozen block that is changed in place."""
    trainer = make_trainer("cached", tmp_path)
    trainer.train()

    def expected():
        return make_trainer("trainer", tmp_path, model=trainer.model).evaluate()["eval_loss"]

    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected(), abs=1e-5)
    with torch.no_grad():
        trainer.model.transformer.h[1].mlp.c_fc.weight.add_(0.5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected(), abs=1e-5)
    other = frozen_model()
    with torch.no_grad():
        other.transformer.wte.weight.mul_(-1)
    trainer.model = trainer.model_wrapped = other
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected(), abs=1e-5)


def test_dataset_without_token_ids_trains_uncached(tmp_path):
    """A collator that tokenizes: there is nothing to look rows up by before a batch is made."""

    def tokenizing(rows):
        return collate([{"input_ids": row["ids"], "attention_mask": [1] * len(row["ids"]), **row} for row in rows])

    rows = [{"ids": row["input_ids"], "labels": row["labels"]} for row in TRAIN]
    fields = {"data_collator": tokenizing, "train_dataset": RowsOfLists(rows), "eval_dataset": RowsOfLists(rows)}
    options = {"arguments_": {"remove_unused_columns": False}, **fields}
    trainer = RecipeTrainer(
        frozen_model(), arguments(tmp_path / "x", remove_unused_columns=False, max_steps=3), tokenizing,
        train_dataset=fields["train_dataset"], eval_dataset=fields["eval_dataset"],
    )  # fmt: skip
    trainer.train()
    assert trainer.features is None
    with pytest.raises(RecipeError, match=r"feature_cache is on, .* but train_dataset has no length, or no input_ids"):
        make_trainer("cached", tmp_path, **options).train()


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


def test_checkpoints_are_not_pushed_as_models(tmp_path):
    """Trainer would copy a checkpoint's weights, the trained ones alone, over the complete model."""
    trainer = make_trainer("cached", tmp_path, arguments_={"save_strategy": "epoch"})
    assert trainer._push_from_checkpoint(str(tmp_path / "checkpoint-1")) is None


@pytest.mark.parametrize(
    "fields", [{}, {"train_sampling_strategy": "group_by_length"}, {"gradient_accumulation_steps": 2}]
)
def test_only_texts_that_a_short_run_reads_are_cached(tmp_path, fields):
    class Watch(RecipeTrainer):
        read = 0

        def training_step(self, model, inputs, *args, **keywords):
            assert "trunk_output" in inputs
            self.read += len(inputs["labels"])
            return super().training_step(model, inputs, *args, **keywords)

    fields = {"max_steps": 3, "eval_strategy": "no", **fields}
    trainer = make_trainer("cached", tmp_path, trainer_class=Watch, arguments_=fields)
    trainer.train()
    assert len(trainer.features.rows) == trainer.read == 12 * fields.get("gradient_accumulation_steps", 1)


def test_a_longer_run_of_the_same_trainer_decides_on_the_cache_again(tmp_path):
    trainer = make_trainer("cached", tmp_path, arguments_={"num_train_epochs": 1})
    trainer.cache_policy = CachePolicy("auto", str(tmp_path / "cache"))
    trainer.train()
    assert trainer.features is None
    trainer.args.num_train_epochs = 3
    trainer.train()
    assert trainer.features is not None

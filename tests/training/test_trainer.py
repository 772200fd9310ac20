"""What is not finite stops a run, and replaces nothing."""

from pathlib import Path

import pytest
from conftest import FAST, NANO, fields_of
from transformers import TrainerCallback

from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.training.checkpoints import fault_of, last_whole_checkpoint
from recipe.training.preparing import prepare_run
from recipe.training.run import make_trainer


def trainer_with(callback, data, output_dir):
    """Of two epochs of 6 steps."""
    arguments = parse_arguments([*fields_of(NANO, data, output_dir), *FAST, "--num_train_epochs", "2"])
    trainer = make_trainer(prepare_run(*arguments), arguments[0], arguments[2])
    trainer.add_callback(callback)
    return trainer


def test_a_loss_that_is_not_finite_stops_before_the_step(three_labels, tmp_path):
    """A learning rate that is sound for an epoch, then weights are made infinite: step 7's loss is not a number."""
    output = tmp_path / "x"

    class Ruin(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 6:
                model.score.bias.data[0] = float("nan")

    trainer = trainer_with(Ruin(), three_labels, output)
    with pytest.raises(
        RecipeError, match=r"the loss is nan at step 7: training stops.*lower learning_rate \(0.001 now\)"
    ):
        trainer.train()
    assert trainer.state.global_step == 6
    assert Path(last_whole_checkpoint(output)).name == "checkpoint-6"


def test_weights_that_are_not_finite_replace_nothing(three_labels, tmp_path):
    """Gradients may overflow though the loss did not; no later step is there to tell."""
    output = tmp_path / "x"

    class RuinTheLast(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 12:
                model.score.bias.data[0] = float("inf")

    trainer = trainer_with(RuinTheLast(), three_labels, output)
    with pytest.raises(RecipeError, match="weights are no longer finite after step 12"):
        trainer.train()
    assert [path.name for path in output.glob("checkpoint-*")] == ["checkpoint-6"]
    assert fault_of(output / "checkpoint-6") is None

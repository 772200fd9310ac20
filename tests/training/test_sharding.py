"""FSDP2, prepared by accelerate itself, on two processes of a CPU: the results of one process.

`accelerate launch` makes plain DDP of FSDP on a CPU; here the trainer gets the plugin after its Accelerator exists.
Run as a program, this file trains, on both paths: test_sharding.py OUTPUT_DIR.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from conftest import NANO, tiny_model
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2ForSequenceClassification, TrainingArguments

from recipe import RecipeTrainer, cache_features, freeze_except, last_blocks, load_tokenizer
from recipe.distributed import check_sharding
from recipe.errors import RecipeError

ROWS = [{"input_ids": [(7 * i * n + n) % 90 for i in range(n)], "labels": n % 3} for n in range(3, 35)]
DATA = Dataset.from_list([{**row, "attention_mask": [1] * len(row["input_ids"])} for row in ROWS])
OTHER = Dataset.from_list([{"input_ids": [n, 1, 2], "attention_mask": [1] * 3, "labels": 0} for n in range(5)])
LEARNING_RATE = 1e-2


class ShardedTrainer(RecipeTrainer):
    def create_accelerator_and_postprocess(self):
        super().create_accelerator_and_postprocess()
        if PartialState().num_processes > 1:
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=["GPT2Block"],
                state_dict_type="FULL_STATE_DICT",
            )
            state = self.accelerator.state
            state.fsdp_plugin, self.is_fsdp_enabled = plugin, True
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    def training_step(self, model, inputs, *args, **keywords):
        assert ("trunk_output" in inputs) == ("trunk_output" in self.train_dataset.column_names)
        return super().training_step(model, inputs, *args, **keywords)


def train(folder: Path, feature_cache: str, resume: str | None = None) -> ShardedTrainer:
    model = tiny_model()
    freeze_except(model, last_blocks(model.config, 2))  # one block with the shortcut, one without
    tokenizer = load_tokenizer(str(NANO), GPT2Config.from_pretrained(NANO))
    tokenizer.pad_token_id = 0
    batch_size = 8 // int(os.environ.get("WORLD_SIZE", 1))
    args = TrainingArguments(
        folder, per_device_train_batch_size=batch_size, num_train_epochs=2, learning_rate=LEARNING_RATE, use_cpu=True,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, report_to=[], disable_tqdm=True,
        adam_epsilon=1e-2,  # with its default, Adam would enlarge differences of rounding
    )  # fmt: skip
    cached = cache_features(model, DATA, folder / "cache", when=feature_cache, args=args)
    trainer = ShardedTrainer(
        model, args, train_dataset=cached, eval_dataset=cached.select(range(8)), processing_class=tokenizer
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def main(folder: Path) -> None:
    for feature_cache in ("on", "off"):
        path = folder / feature_cache
        trainer = train(path / "run", feature_cache)
        predictions = trainer.predict(OTHER).predictions  # these were never cached
        mixed = trainer.predict(Dataset.from_list([*DATA.select(range(3)), *OTHER])).predictions[3:]
        trainer.save_model(path / "saved")
        resumed = train(path / "run", feature_cache, str(path / "run" / "checkpoint-4"))
        resumed.save_model(path / "resumed")
        if trainer.is_world_process_zero():
            figures = {"logits": torch.tensor(predictions), "mixed": torch.tensor(mixed)}
            save_file(figures, path / "predictions.safetensors")


def run(folder: Path, processes: int) -> None:
    """Run this file as a program."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, __file__, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights that a run has saved, and its predictions."""
    files = {name: folder / name / "model.safetensors" for name in ("saved", "resumed")}
    files["predictions"] = folder / "predictions.safetensors"
    return {f"{name}.{key}": value for name, path in files.items() for key, value in load_file(path).items()}


@pytest.mark.slow
def test_two_sharded_processes_give_the_results_of_one(tmp_path):
    for processes in (1, 2):
        run(tmp_path / str(processes), processes)
    for feature_cache in ("on", "off"):
        one, two = (tensors_of(tmp_path / processes / feature_cache) for processes in "12")
        assert one.keys() == two.keys()
        for name, expected in one.items():
            torch.testing.assert_close(
                two[name], expected, rtol=1e-4, atol=1e-5, msg=f"{name}, feature_cache {feature_cache}"
            )
        stock = GPT2ForSequenceClassification.from_pretrained(tmp_path / "2" / feature_cache / "saved").eval()
        logits = stock(torch.tensor(OTHER["input_ids"][:])).logits
        torch.testing.assert_close(two["predictions.logits"], logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two["predictions.mixed"], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ({"fsdp_plugin": FullyShardedDataParallelPlugin(fsdp_version=1)}, "FSDP 1 is not supported"),
        ({"deepspeed_plugin": type("Plugin", (), {"zero_stage": 3})}, "ZeRO stage 3 is not supported"),
    ],
)
def test_other_ways_of_sharding_are_refused(plugins, message):
    with pytest.raises(RecipeError, match=message):
        check_sharding(type("State", (), plugins), tiny_model())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

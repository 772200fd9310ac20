import pytest
import torch
from conftest import tiny_model
from datasets import Dataset

from recipe import freeze_except, last_blocks
from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.training.cache_policy import estimated_bytes, free_disk, native_bfloat16, trunk_dtype, use_feature_cache

SPLITS = {name: Dataset.from_dict({"length": [5, 10, 5]}) for name in ("train", "validation")}


def decide(*fields, patterns=None, tmp_path=None):
    model_args, _, training_args = parse_arguments(["--train_file", "a.csv", "--output_dir", "runs/none", *fields])
    model = tiny_model()
    freeze_except(model, patterns or last_blocks(model.config, 1))
    return use_feature_cache(model, SPLITS, model_args, training_args)


def test_auto_wants_a_frozen_trunk_several_passes_and_room(caplog):
    caplog.set_level("INFO", logger="recipe")
    assert decide()
    assert "up to 0.000 GB on disk" in caplog.text
    assert not decide(patterns=["*"])
    assert not decide(patterns=["transformer.h.0.*", "score.*"])
    assert decide(patterns=["transformer.h.1.*", "score.*"])
    assert not decide("--num_train_epochs", "1")
    assert not decide("--max_steps", "1", "--per_device_train_batch_size", "3")
    assert decide("--max_steps", "2", "--per_device_train_batch_size", "3")
    assert not decide("--feature_cache_max_gb", "1e-6")
    assert "see --feature_cache_max_gb" in caplog.text


def test_orders_are_orders():
    assert not decide("--feature_cache", "off")
    assert decide("--feature_cache", "on", "--num_train_epochs", "1")
    with pytest.raises(RecipeError, match="feature_cache is on, but the first block trains"):
        decide("--feature_cache", "on", patterns=["*"])
    with pytest.raises(RecipeError, match="trunk_dtype is bfloat16, but the trunk is not cached"):
        decide("--feature_cache", "off", "--trunk_dtype", "bfloat16")


def test_sizes_are_tokens_times_width_times_bytes(tmp_path):
    model = tiny_model()
    freeze_except(model, last_blocks(model.config, 1))
    assert estimated_bytes(model, SPLITS, torch.float32) == 40 * 32 * 4
    assert estimated_bytes(model, SPLITS, torch.bfloat16) == 40 * 32 * 2
    freeze_except(model, ["score.*"])
    assert estimated_bytes(model, SPLITS, torch.float32) == 6 * 32 * 4
    assert free_disk(tmp_path / "not" / "there" / "yet") > 0


def test_auto_takes_bfloat16_only_where_it_is_native():
    cpu = torch.device("cpu")
    assert trunk_dtype("float32", cpu) is torch.float32
    assert trunk_dtype("bfloat16", cpu) is torch.bfloat16
    assert trunk_dtype("auto", cpu) is (torch.bfloat16 if native_bfloat16(cpu) else torch.float32)
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    assert native_bfloat16(cpu) == ("avx512_bf16" in flags or "amx_bf16" in flags)

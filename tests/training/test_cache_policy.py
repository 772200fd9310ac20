import pytest
import torch
from conftest import tiny_model
from transformers import TrainingArguments

from recipe.errors import RecipeError
from recipe.model.freezing import freeze_except, last_blocks
from recipe.training.cache_policy import CachePolicy, count_reads, free_disk, has_native_bfloat16

LENGTHS = [5, 10, 5] * 2


def frozen_model(patterns=None):
    model = tiny_model()
    freeze_except(model, patterns or last_blocks(model.config, 1))
    return model


def decide(reads=2, patterns=None, **options):
    policy, model = CachePolicy(**options), frozen_model(patterns)
    policy.check(model)
    return policy.wants_cache(model, LENGTHS, reads, torch.device("cpu"))


def test_auto_wants_a_frozen_trunk_several_reads_and_room(caplog):
    caplog.set_level("INFO", logger="recipe")
    assert decide()
    assert "up to 0.000 GB on disk" in caplog.text
    assert decide(patterns=["transformer.h.1.*", "score.*"])
    assert not decide(reads=1)
    assert not decide(max_gb=1e-6)
    assert "see --feature_cache_max_gb" in caplog.text


def test_on_and_off_are_followed():
    assert decide(choice="on", reads=1)
    with pytest.raises(RecipeError, match="feature_cache is on, but the first block trains"):
        decide(choice="on", patterns=["*"])
    for options in ({"choice": "off"}, {"reads": 1}, {"max_gb": 1e-6}):
        with pytest.raises(RecipeError, match="trunk_dtype is bfloat16, but the trunk is not cached"):
            decide(trunk_dtype="bfloat16", **options)


@pytest.mark.parametrize(
    ("options", "patterns", "numbers"),
    [({}, None, 40 * 32), ({"trunk_dtype": "bfloat16"}, None, 20 * 32), ({}, ["score.*"], 6 * 32)],
)
def test_size_is_tokens_times_width_times_bytes(options, patterns, numbers):
    size = numbers * 4 / 1e9
    assert decide(max_gb=size * 1.001, patterns=patterns, **({"choice": "auto"} | options))
    policy = CachePolicy(max_gb=size * 0.999, **{**options, "trunk_dtype": "float32"})
    if not options:
        assert not policy.wants_cache(frozen_model(patterns), LENGTHS, 2, torch.device("cpu"))


def test_reads_are_epochs_or_steps_over_texts(tmp_path):
    def args(**fields):
        return TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=3, **fields)

    assert count_reads(6, args(num_train_epochs=1.5)) == 1.5
    assert count_reads(6, args(max_steps=4, gradient_accumulation_steps=2)) == 4


def test_free_disk_of_a_folder_to_come(tmp_path):
    assert free_disk(tmp_path / "a" / "b" / "c") > 0


def test_auto_takes_bfloat16_only_where_it_is_native():
    cpu = torch.device("cpu")
    assert CachePolicy().dtype(cpu) is torch.float32
    assert CachePolicy(trunk_dtype="bfloat16").dtype(cpu) is torch.bfloat16
    native = has_native_bfloat16(cpu)
    assert CachePolicy(trunk_dtype="auto").dtype(cpu) is (torch.bfloat16 if native else torch.float32)
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    assert native == ("avx512_bf16" in flags or "amx_bf16" in flags)

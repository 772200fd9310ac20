"""The column `trunk_output`: transformers' own hidden states, computed once a text, found again, refused where they are not the model's."""

import errno
import logging
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import transformers
from conftest import NANO, ROOT, tiny_model
from datasets import Dataset, DatasetDict
from frozen_trunks import SEQUENCES, frozen_model, reference_states
from transformers import GPT2Config, TrainingArguments

from recipe import FeatureCollator, cache_features, freeze_except, last_blocks, load_tokenizer
from recipe.errors import RecipeError
from recipe.model.classifier import GPT2Block, GPT2LastTokenClassifier
from recipe.training.cache_folder import clear_caches, list_caches
from recipe.training.features import open_hidden, passes_over_data
from recipe.training.trunk import dtype_of, folder_name, has_native_bfloat16, in_dtype, trunk_key

CPU = torch.device("cpu")


def args(**fields):
    return TrainingArguments(use_cpu=True, **fields)


def rows_of(sequences, **columns):
    return Dataset.from_dict({"input_ids": sequences, "labels": [i % 3 for i in range(len(sequences))], **columns})


def cache(model, sequences, folder, *options, **keywords):
    return cache_features(model, rows_of(sequences), folder, *options, args=args(), **keywords)


def collate(rows):
    """Pad on the right."""
    ids = [row["input_ids"] for row in rows]
    longest = max(map(len, ids))
    return {
        "input_ids": torch.tensor([part + [98] * (longest - len(part)) for part in ids]),
        "attention_mask": torch.tensor([[1] * len(part) + [0] * (longest - len(part)) for part in ids]),
    }


def files(folder):
    return {path.name: path.stat().st_ino for path in folder.rglob("*.arrow")}


@pytest.fixture
def computed(monkeypatch):
    """How many texts the trunk is run over."""
    counts, trunk = [0], GPT2LastTokenClassifier.trunk

    def counted(self, input_ids, depth=None):
        counts[0] += len(input_ids)
        return trunk(self, input_ids, depth)

    monkeypatch.setattr(GPT2LastTokenClassifier, "trunk", counted)
    return counts


def test_rows_are_transformers_hidden_states_unpadded(tmp_path):
    model = frozen_model()
    rows = cache(model, SEQUENCES, tmp_path)
    assert rows.column_names == ["input_ids", "labels", "trunk_depth", "trunk_output"]
    for row in rows:
        assert row["trunk_output"].shape == (len(row["input_ids"]), 32)
        expected = reference_states(model, row["input_ids"], 3)
        torch.testing.assert_close(row["trunk_output"], expected, atol=1e-5, rtol=1e-4)


FILTERS = {
    **{f"{k} blocks": (last_blocks(tiny_model().config, k), "last") for k in range(4)},
    **{f"head, {pooling}": (["score.*"], pooling) for pooling in ("last", "first", "mean")},
}


@pytest.mark.parametrize("name", FILTERS)
def test_logits_from_cached_rows_are_the_models(tmp_path, name):
    patterns, pooling = FILTERS[name]
    model = frozen_model(patterns, pooling=pooling)
    rows = cache(model, SEQUENCES, tmp_path)
    batch = FeatureCollator(collate)([rows[i] for i in range(6)])
    one_token = model.split_depth == 4 and pooling != "mean"
    assert batch["trunk_output"].shape == (6, 1 if one_token else 40, 32)
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([ids])).logits for ids in SEQUENCES])
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)


def test_the_collator_passes_plain_batches_on_and_drops_bookkeeping(tmp_path):
    tokenizer = load_tokenizer(str(NANO), GPT2Config.from_pretrained(NANO))
    plain = rows_of(SEQUENCES, length=[1] * 6, uncut_length=[1] * 6)
    batch = FeatureCollator(tokenizer)([plain[i] for i in range(6)])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    cached = cache_features(frozen_model(), plain, tmp_path, args=args())
    batch = FeatureCollator(tokenizer)([cached[i] for i in range(6)])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "trunk_output", "trunk_depth"}
    mixed = FeatureCollator(tokenizer)([cached[0], plain[1]])
    assert "trunk_output" not in mixed


def test_padding_formats_and_selections_make_no_difference(tmp_path, computed):
    ids, mask = [[9, 9, 1, 2], [3, 4, 5, 6], [7, 9, 9, 9]], [[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    padded, model = rows_of(ids, attention_mask=mask), frozen_model()
    first = cache(model, [[1, 2], [3, 4, 5, 6], [7]], tmp_path)
    assert computed == [3]
    for rows in (padded, padded.with_format("torch"), padded.select([2, 1, 0]).select([2, 1, 0])):
        cached = cache_features(model, rows, tmp_path, args=args())
        for i in range(3):
            assert torch.equal(torch.as_tensor(cached[i]["trunk_output"]), first[i]["trunk_output"])
    assert computed == [3]


def test_each_text_is_computed_once_whatever_split_it_is_in(tmp_path, computed):
    model, other = frozen_model(), [[9, 9, 9], [4], [8]]
    splits = DatasetDict(train=rows_of(SEQUENCES), validation=rows_of(other))
    cached = cache_features(model, splits, tmp_path, args=args())
    assert computed == [7]  # [4] occurs three times
    assert torch.equal(cached["train"][1]["trunk_output"], cached["validation"][1]["trunk_output"])
    before = files(tmp_path)
    again = cache_features(model, DatasetDict(train=rows_of(other[::-1]), validation=rows_of(SEQUENCES[:3])), tmp_path)
    assert computed == [7]
    assert files(tmp_path) == before
    assert torch.equal(again["train"][0]["trunk_output"], cached["validation"][2]["trunk_output"])
    cache(model, [*SEQUENCES, [5, 5]], tmp_path)
    assert computed == [8]
    assert len(files(tmp_path)) == 2


def test_a_copy_for_a_worker_carries_names_of_files(tmp_path):
    rows = cache(frozen_model(), [[i % 90, i % 89, 2] for i in range(90)], tmp_path)
    message = pickle.dumps(rows)
    assert len(message) < 20_000  # the states take 34,560
    assert torch.equal(pickle.loads(message)[3]["trunk_output"], rows[3]["trunk_output"])


def test_key_covers_everything_that_rows_depend_on():
    model = frozen_model()
    key = trunk_key(model)
    assert trunk_key(frozen_model()) == key
    others = [frozen_model(last_blocks(model.config, 2)), frozen_model(n_head=4), frozen_model(["score.*"])]
    others.append(frozen_model(["score.*"], pooling="first"))
    assert len({key, *map(trunk_key, others)}) == 5
    with torch.no_grad():
        model.score.weight.add_(1)
        model.transformer.h[3].mlp.c_fc.weight.add_(1)  # the tail trains: its weights are not the trunk's
        assert trunk_key(model) == key
        model.transformer.h[2].mlp.c_fc.weight.data[0, 0] += 1e-3  # which counts no version
    assert trunk_key(model) != key


def test_the_folder_is_named_by_what_changes_the_last_bits(monkeypatch):
    """Versions, and TF32 by the setting that transformers uses, after which the older one raises."""
    names = {folder_name("key", torch.float32, CPU), folder_name("key", torch.bfloat16, CPU)}
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    names.add(folder_name("key", torch.float32, CPU))
    for package in (torch, transformers):
        monkeypatch.setattr(package, "__version__", "0.0")
        names.add(folder_name("key", torch.float32, CPU))
    assert len(names) == 5


def cut_short(content):
    return content[:-300]


def cut_at_a_batch(content):
    """The last record batch and the end mark are gone: what is left reads as a complete stream."""
    return content[: content.rindex(b"\xff\xff\xff\xff", 0, len(content) - 8)]


def test_a_file_that_the_system_does_not_give_is_left(tmp_path, monkeypatch):
    model = frozen_model()
    cache(model, SEQUENCES, tmp_path)

    def fail(path):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr("recipe.training.features.read_keys", fail)
        with pytest.raises(RecipeError, match="Cannot allocate memory"):
            cache(model, SEQUENCES, tmp_path)
    assert len(list(tmp_path.rglob("*.arrow"))) == 1


@pytest.mark.parametrize("damage", [cut_short, cut_at_a_batch, lambda content: b"", lambda content: b"another file"])
def test_damaged_file_is_reported_and_computed_again(tmp_path, caplog, monkeypatch, damage):
    monkeypatch.setattr("recipe.training.trunk.batch_tokens", lambda device: 1)  # a record batch each
    model = frozen_model()
    cache(model, SEQUENCES, tmp_path)
    (path,) = tmp_path.rglob("*.arrow")
    complete = path.read_bytes()
    path.write_bytes(damage(complete))
    caplog.set_level(logging.WARNING, logger="recipe")
    rows = cache(model, SEQUENCES, tmp_path)
    assert "is damaged" in caplog.text
    assert [p.read_bytes() for p in tmp_path.rglob("*.arrow")] == [complete]
    torch.testing.assert_close(rows[1]["trunk_output"], reference_states(model, [4], 3), atol=1e-5, rtol=1e-4)


def test_an_interrupted_run_leaves_nothing_that_is_trusted_and_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.training.features.SHARD_TOKENS", 50)
    sequences = [[i, *range(i % 7), *range(i % 5)] for i in range(40)]
    whole = cache(frozen_model(), sequences, tmp_path / "whole")
    trunk, calls = GPT2LastTokenClassifier.trunk, []

    def stop_at_the_third(self, input_ids, depth=None):
        calls.append(input_ids)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return trunk(self, input_ids, depth)

    with monkeypatch.context() as patched:
        patched.setattr(GPT2LastTokenClassifier, "trunk", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            cache(frozen_model(), sequences, tmp_path / "cut")
    assert len(files(tmp_path / "cut")) == 2
    rows = cache(frozen_model(), sequences, tmp_path / "cut")
    assert files(tmp_path / "cut").keys() == files(tmp_path / "whole").keys()
    assert all(torch.equal(a["trunk_output"], b["trunk_output"]) for a, b in zip(rows, whole, strict=True))


@pytest.mark.slow
def test_concurrent_writers_agree(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/training']; from test_features import *; from pathlib import Path;"
        f"cache(frozen_model(), [[i, i + 1] for i in range(60)], Path({str(tmp_path)!r}))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    model, before = frozen_model(), files(tmp_path)
    rows = cache(model, [[i, i + 1] for i in range(60)], tmp_path)
    assert files(tmp_path) == before
    torch.testing.assert_close(rows[7]["trunk_output"], reference_states(model, [7, 8], 3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_bfloat16_rows_take_half_the_room_and_stay_close(tmp_path, dropout):
    """Also of a model that drops in training: a trunk never does, whatever copy of it runs."""
    fields = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    model = frozen_model(**fields)
    model.train()
    exact, half = (cache(model, SEQUENCES, tmp_path, dtype) for dtype in ("float32", "bfloat16"))
    for a, b in zip(exact, half, strict=True):
        assert b["trunk_output"].dtype == torch.bfloat16
        difference = (b["trunk_output"].float() - a["trunk_output"]).norm() / a["trunk_output"].norm()
        assert difference < 0.02
    assert (model.dtype, model.training) == (torch.float32, True)
    size = {about["dtype"]: bytes_ for _, about, bytes_ in list_caches(tmp_path)}
    assert size["torch.bfloat16"] < size["torch.float32"]


def test_a_model_in_bfloat16_is_cached_without_dropout(tmp_path):
    model = frozen_model(resid_pdrop=0.5, embd_pdrop=0.5).to(torch.bfloat16)
    twin = in_dtype(model.train(), torch.float32)
    assert not any(module.training for module in twin.modules())
    rows = cache(model, SEQUENCES, tmp_path)
    expected = reference_states(model.float(), SEQUENCES[2], 3)
    torch.testing.assert_close(rows[2]["trunk_output"], expected, atol=1e-4, rtol=1e-3)


def test_auto_wants_a_frozen_trunk_several_passes_and_room(tmp_path, caplog):
    caplog.set_level("INFO", logger="recipe")
    model, rows = frozen_model(), rows_of(SEQUENCES)

    def decide(model=model, when="auto", fields=None, **options):
        cached = cache_features(model, rows, tmp_path, when=when, args=args(**(fields or {})), **options)
        return "trunk_output" in cached.column_names

    assert not decide(fields={"num_train_epochs": 1})
    assert "1.0 passes over the training texts expected" in caplog.text
    assert not decide(max_gb=1e-6)
    assert "GB on disk, of at most 1e-06 GB (--feature_cache_max_gb)" in caplog.text
    assert not decide(frozen_model(["*"]))
    assert "no trunk is frozen" in caplog.text
    assert not decide(when="off")
    assert not list(tmp_path.iterdir())
    assert decide(when="on", fields={"num_train_epochs": 1})
    assert decide(frozen_model(["transformer.h.1.*", "score.*"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"when": "on", "model": ["*"]}, "feature_cache is on.* but no trunk is frozen"),
        ({"dtype": "bfloat16", "when": "off"}, "trunk_dtype bfloat16, but it is off"),
        ({"dtype": "bfloat16", "max_gb": 1e-6}, "trunk_dtype bfloat16, but it takes"),
        (
            {"when": "on", "max_gb": 1e-6},
            r"feature_cache is on.* but it takes .* GB on disk, of at most 1e-06 GB \(--feature_cache_max_gb\)",
        ),
        ({"when": "maybe"}, "when is 'maybe': take one of auto, on, off"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_batch(tmp_path, computed, options, message):
    model = frozen_model(options.pop("model", None))
    with pytest.raises(RecipeError, match=message):
        cache(model, SEQUENCES, tmp_path, **options)
    assert computed == [0]


def test_a_transform_is_named(tmp_path, caplog):
    caplog.set_level("INFO", logger="recipe")
    rows = rows_of(SEQUENCES).with_transform(lambda batch: batch)
    assert cache_features(frozen_model(), rows, tmp_path) is rows
    assert "not used (train has a transform (set_transform)" in caplog.text


@pytest.mark.parametrize(
    ("sequences", "columns", "message"),
    [
        ([[1], [], [2]], {}, "train, row 1: has no token"),
        ([[1], [2], [3]], {"attention_mask": [[1], [0], [1]]}, "the text of row 1 has no tokens"),
        ([[1], [100], [3]], {}, "train, row 1: has the token id 100"),
        ([[1], [2], list(range(65))], {}, "input_ids has 65 tokens a text, but the model has 64 positions"),
    ],
)
def test_rows_that_the_model_cannot_read_are_named_before_any_is_computed(tmp_path, sequences, columns, message):
    with pytest.raises(RecipeError, match=message):
        cache_features(frozen_model(), rows_of(sequences, **columns), tmp_path, args=args())
    assert not list(tmp_path.rglob("*.arrow"))


def test_what_just_fits_the_limit_is_found_again(tmp_path, computed):
    """Files are somewhat larger than the states in them."""
    texts = [[i, *range(20)] for i in range(8)]
    for _ in range(3):
        cache(frozen_model(), texts, tmp_path, max_gb=8 * 21 * 32 * 4 / 1e9)
    assert computed == [8]


class OwnTrunk(GPT2LastTokenClassifier):
    def trunk(self, input_ids, depth=None):
        return 2 * super().trunk(input_ids, depth)


class OwnBlock(GPT2Block):
    def forward(self, *args, **keywords):
        return 2 * super().forward(*args, **keywords)


def own_trunk(model):
    model.__class__ = OwnTrunk


def own_block(model):
    model.transformer.h[1].__class__ = OwnBlock


def hook(model):
    model.transformer.h[1].register_forward_hook(lambda module, inputs, output: 2 * output)


def frozen_adapter(model):
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=r".*h\.0\.attn\.c_attn", fan_in_fan_out=True), model)
    freeze_except(model, last_blocks(model.config, 1))


@pytest.mark.parametrize("change", [own_trunk, own_block, hook, frozen_adapter])
def test_a_trunk_with_code_of_others_is_not_cached(tmp_path, caplog, change):
    caplog.set_level("INFO", logger="recipe")
    model = frozen_model()
    change(model)
    rows = cache(model, SEQUENCES, tmp_path)
    assert "trunk_output" not in rows.column_names
    assert "of its own" in caplog.text


@pytest.mark.parametrize("kind", [None, "torch", "numpy"])
def test_the_model_refuses_rows_of_another_depth(tmp_path, kind):
    model = frozen_model()
    rows = cache(model, SEQUENCES, tmp_path).with_format(kind, ["trunk_output", "trunk_depth"], output_all_columns=True)
    batch = FeatureCollator(collate)([rows[0], rows[2]])
    model.transformer.h[2].requires_grad_(True)
    with pytest.raises(RecipeError, match="the trunk was cached with 3 frozen blocks, but now 2 are"):
        model(**batch)


def test_texts_that_change_after_caching_are_refused(tmp_path):
    rows = cache(frozen_model(), SEQUENCES, tmp_path)
    for change in (lambda ids: [*ids, 5], lambda ids: ids[-2:]):
        changed = rows.map(lambda row, change=change: {"input_ids": change(row["input_ids"])})
        with pytest.raises(RecipeError, match=r"was cached with \d+: call cache_features after all changes"):
            FeatureCollator(collate)([dict(changed[i]) for i in range(len(changed))])


def test_states_that_another_map_has_written_anew_are_used(tmp_path):
    rows = cache(frozen_model(), SEQUENCES, tmp_path)
    copied = rows.map(lambda row: {**row, "more": 1})
    one, two = (FeatureCollator(collate)([dict(data[i]) for i in (0, 2)]) for data in (rows, copied))
    assert torch.equal(one["trunk_output"], two["trunk_output"])
    assert torch.equal(one["trunk_depth"], two["trunk_depth"])


def test_rows_whose_file_is_gone_are_refused_with_the_way_on(tmp_path):
    cache(frozen_model(), SEQUENCES, tmp_path / "cache").save_to_disk(tmp_path / "saved")
    open_hidden.cache_clear()
    clear_caches(tmp_path / "cache")
    with pytest.raises(
        RecipeError, match=r"trunk_output lies in a file that cannot be read.*call cache_features again"
    ):
        Dataset.load_from_disk(tmp_path / "saved")[0]


def test_caches_are_listed_and_cleared(tmp_path):
    (tmp_path / "mine.txt").write_text("not ours")
    cache(frozen_model(), SEQUENCES, tmp_path)
    cache(frozen_model(["score.*"]), SEQUENCES, tmp_path)
    listed = list(list_caches(tmp_path))
    assert sorted(about["blocks"] for _, about, _ in listed) == [3, 4]
    total = sum(path.stat().st_size for folder, _, _ in listed for path in folder.iterdir())
    assert sum(size for _, _, size in listed) == total
    assert clear_caches(tmp_path, unused_days=0.5) == 0
    assert clear_caches(tmp_path) == total
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert list(list_caches(tmp_path / "nowhere")) == []


def age(folder, days):
    for path in folder.rglob("*.arrow"):
        os.utime(path, (time.time() - days * 86_400,) * 2)


def test_the_limit_counts_the_rows_of_the_own_trunk_too(tmp_path):
    """Who trains every day from one base model, on texts of that day, must not fill the disk."""
    model, limit = frozen_model(), 20_000
    for day in range(6):
        age(tmp_path, 1)
        texts = [[day, i, *range(20)] for i in range(5)]  # 14 kB
        cache(model, texts, tmp_path, max_gb=limit / 1e9)
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.arrow")) < limit
    mixed = [*texts[:3], [9, 8, *range(20)], [7, 7, *range(20)]]  # some rows of a file are used again, some are not
    rows = cache(model, mixed, tmp_path, max_gb=limit / 1e9)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.arrow")) < limit
    torch.testing.assert_close(rows[3]["trunk_output"], reference_states(model, mixed[3], 3), atol=1e-5, rtol=1e-4)


def test_the_least_recently_used_rows_go_first_and_mapped_ones_stay_readable(tmp_path):
    texts = [[i, *range(20)] for i in range(8)]  # 21 kB with 3 blocks
    old = cache(frozen_model(), texts, tmp_path)
    age(tmp_path, 2)
    cache(frozen_model(["transformer.h.2.*", "score.*"]), texts, tmp_path)
    for path in tmp_path.rglob("*.arrow"):
        if time.time() - path.stat().st_mtime < 80_000:
            os.utime(path, (time.time() - 86_400,) * 2)
    state = old[5]["trunk_output"].clone()
    cache(frozen_model(["transformer.h.1.*", "score.*"]), texts, tmp_path, max_gb=50_000 / 1e9)
    assert sorted(about["blocks"] for _, about, _ in list_caches(tmp_path)) == [1, 2]
    assert torch.equal(old[5]["trunk_output"], state)


def test_passes_are_epochs_or_steps_over_texts():
    assert passes_over_data(6, args(num_train_epochs=1.5)) == 1.5
    assert passes_over_data(6, args(max_steps=4, per_device_train_batch_size=3, gradient_accumulation_steps=2)) == 4


def test_auto_takes_bfloat16_only_where_it_is_native():
    assert dtype_of("float32", CPU) is torch.float32
    assert dtype_of("bfloat16", CPU) is torch.bfloat16
    native = has_native_bfloat16(CPU)
    assert dtype_of("auto", CPU) is (torch.bfloat16 if native else torch.float32)
    with open("/proc/cpuinfo") as file:
        flags = file.read()
    assert native == ("avx512_bf16" in flags or "amx_bf16" in flags)


def test_every_place_of_several_files_is_right(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.training.features.SHARD_TOKENS", 40)
    model, rng = frozen_model(), np.random.default_rng(0)
    sequences = [rng.integers(0, 98, size=rng.integers(1, 12)).tolist() for _ in range(60)]
    cache(model, sequences[:20], tmp_path)
    rows = cache(model, sequences, tmp_path)
    assert len(files(tmp_path)) > 5
    some = cache(model, sequences[25:30], tmp_path)  # of which not all files are needed
    for row in [*rows, *some]:
        expected = model.trunk(torch.tensor([row["input_ids"]]))[0]
        torch.testing.assert_close(row["trunk_output"], expected, atol=1e-5, rtol=0)

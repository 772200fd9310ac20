import logging
import os
import pickle
import subprocess
import sys
import time

import pytest
import torch
import transformers
from conftest import ROOT, tiny_model
from datasets import Dataset, List, Value
from frozen_trunks import SEQUENCES, damage_one_bit, flip_at, frozen_model, reference_states

from recipe import last_blocks
from recipe.training.cache_policy import clear_caches, forget_unused, list_caches
from recipe.training.feature_cache import (
    FeatureCollator,
    cache_features,
    sequence_key,
    token_sequences,
    trunk_key,
)


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


def test_rows_are_transformers_hidden_states_unpadded(tmp_path):
    model = frozen_model()
    features = cache_features(model, SEQUENCES, tmp_path)
    for ids in SEQUENCES:
        row = features[sequence_key(ids)]
        assert row.shape == (len(ids), 32)
        torch.testing.assert_close(row, reference_states(model, ids, 3), atol=1e-5, rtol=1e-4)


def collate(sequences):
    """Pad on the right."""
    longest = max(map(len, sequences))
    return {
        "input_ids": torch.tensor([ids + [99] * (longest - len(ids)) for ids in sequences]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in sequences]),
    }


FILTERS = {
    **{f"{k} blocks": (last_blocks(tiny_model().config, k), "last") for k in range(4)},
    **{f"head, {pooling}": (["score.*"], pooling) for pooling in ("last", "first", "mean")},
}


@pytest.mark.parametrize("name", FILTERS)
def test_logits_from_cached_rows_are_the_models(tmp_path, name):
    patterns, pooling = FILTERS[name]
    model = frozen_model(patterns, pooling=pooling)
    batch = FeatureCollator(collate, cache_features(model, SEQUENCES, tmp_path))(SEQUENCES)
    one_token = model.split_depth == 4 and pooling != "mean"
    assert batch["trunk_output"].shape == (6, 1 if one_token else 40, 32)
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([ids])).logits for ids in SEQUENCES])
        torch.testing.assert_close(model(**batch).logits, expected, atol=1e-5, rtol=0)


def test_token_sequences_leave_padding_out():
    ids, mask = [[9, 9, 1, 2], [3, 4, 5, 6], [7, 9, 9, 9]], [[0, 0, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]]
    rows = Dataset.from_dict({"input_ids": ids, "attention_mask": mask, "labels": [0, 1, 0]})
    expected = [[1, 2], [3, 4, 5, 6], [7]]
    for dataset in (
        rows,
        rows.to_list(),
        rows.with_format("torch"),
        rows.cast_column("input_ids", List(Value("int32"))),
    ):
        found = [sequence.tolist() for sequence in token_sequences(dataset)]
        assert found == expected
    assert [s.tolist() for s in token_sequences(rows.select([2, 0]).remove_columns("attention_mask"))] == [
        ids[2],
        ids[0],
    ]


def test_a_copy_for_a_worker_carries_names_of_files(tmp_path):
    features = cache_features(frozen_model(), [[i, i + 1, i + 2] for i in range(90)], tmp_path)
    message = pickle.dumps(features)
    assert len(message) < 2000
    copy = pickle.loads(message)
    assert torch.equal(copy[sequence_key([3, 4, 5])], features[sequence_key([3, 4, 5])])


def test_second_run_computes_new_rows_alone(tmp_path):
    model = frozen_model()
    cache_features(model, SEQUENCES, tmp_path)
    first = files(tmp_path)
    cache_features(model, SEQUENCES[::-1] * 2, tmp_path)  # another order, another split
    assert files(tmp_path) == first
    features = cache_features(model, [*SEQUENCES, [9, 9, 9]], tmp_path)
    added = set(files(tmp_path)) - set(first)
    assert len(added) == 1
    (path,) = tmp_path.rglob(added.pop())
    assert len(Dataset.from_file(str(path))) == 1
    assert features[sequence_key([9, 9, 9])].shape == (3, 32)


def test_key_covers_everything_that_rows_depend_on():
    model = frozen_model()
    key = trunk_key(model, torch.float32)
    assert trunk_key(frozen_model(), torch.float32) == key
    assert trunk_key(model, torch.bfloat16) != key
    assert trunk_key(frozen_model(last_blocks(model.config, 2)), torch.float32) != key
    assert trunk_key(frozen_model(["score.*"]), torch.float32) != trunk_key(
        frozen_model(["score.*"], pooling="first"), torch.float32
    )
    assert trunk_key(frozen_model(n_head=4), torch.float32) != key
    with torch.no_grad():
        model.score.weight.add_(1)
        model.transformer.h[3].mlp.c_fc.weight.add_(1)  # the tail trains: its weights are not the trunk's
        assert trunk_key(model, torch.float32) == key
        model.transformer.h[2].mlp.c_fc.weight[0, 0].add_(1e-3)
    assert trunk_key(model, torch.float32) != key


def damage_the_head(path):
    flip_at(path, 0.01)


def damage_the_end(path):
    flip_at(path, 0.95)


def damage_cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_one_bit, damage_the_head, damage_the_end, damage_cut_short, damage_empty])
def test_damaged_file_is_reported_and_computed_again(tmp_path, caplog, damage):
    model = frozen_model()
    cache_features(model, SEQUENCES, tmp_path)
    (path,) = tmp_path.rglob("*.arrow")
    complete = path.read_bytes()
    damage(path)
    caplog.set_level(logging.WARNING, logger="recipe")
    features = cache_features(model, SEQUENCES, tmp_path)
    assert "is damaged: removed" in caplog.text
    assert [p.read_bytes() for p in tmp_path.rglob("*.arrow")] == [complete]
    torch.testing.assert_close(features[sequence_key([4])], reference_states(model, [4], 3), atol=1e-5, rtol=1e-4)


def test_an_interrupted_writer_leaves_nothing_that_is_trusted(tmp_path, monkeypatch):
    model = frozen_model()
    monkeypatch.setattr("recipe.training.feature_files.ROWS_AT_ONCE", 1)
    calls = []

    def fail_at_the_third(trunk, sequences, *_):
        calls.append(sequences)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [torch.zeros(len(ids), 32) for ids in sequences]

    with monkeypatch.context() as patched:
        patched.setattr("recipe.training.feature_files.run_trunk", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            cache_features(model, SEQUENCES, tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))
    features = cache_features(model, SEQUENCES, tmp_path)
    torch.testing.assert_close(features[sequence_key([4])], reference_states(model, [4], 3), atol=1e-5, rtol=1e-4)


@pytest.mark.launch
def test_concurrent_writers_agree(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/training']; from test_feature_cache import *;"
        f"cache_features(frozen_model(), [[i, i + 1] for i in range(60)], {str(tmp_path)!r})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    model, before = frozen_model(), files(tmp_path)
    features = cache_features(model, [[i, i + 1] for i in range(60)], tmp_path)
    assert files(tmp_path) == before
    row = features[sequence_key([7, 8])]
    torch.testing.assert_close(row, reference_states(model, [7, 8], 3), atol=1e-5, rtol=1e-4)


def test_bfloat16_rows_take_half_the_room_and_stay_close(tmp_path):
    model = frozen_model()
    exact, half = (cache_features(model, SEQUENCES, tmp_path, dtype) for dtype in (torch.float32, torch.bfloat16))
    for ids in SEQUENCES:
        row = half[sequence_key(ids)]
        assert row.dtype == torch.bfloat16
        torch.testing.assert_close(row.float(), exact[sequence_key(ids)], atol=0.1, rtol=0.1)
    assert model.dtype == torch.float32


def test_caches_are_listed_and_cleared(tmp_path):
    (tmp_path / "mine.txt").write_text("not ours")
    cache_features(frozen_model(), SEQUENCES, tmp_path)
    cache_features(frozen_model(["score.*"]), SEQUENCES, tmp_path)
    listed = list(list_caches(tmp_path))
    assert sorted(about["blocks"] for _, about, _ in listed) == [3, 4]
    total = sum(path.stat().st_size for folder, _, _ in listed for path in folder.iterdir())
    assert sum(size for _, _, size in listed) == total
    assert clear_caches(tmp_path) == total
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert list(list_caches(tmp_path / "nowhere")) == []


def test_large_set_is_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.training.feature_files.SHARD_TOKENS", 40)
    model = frozen_model()
    sequences = [[i, *range(i % 7)] for i in range(30)]
    features = cache_features(model, sequences, tmp_path)
    files = list(tmp_path.rglob("*.arrow"))
    assert len(files) >= sum(map(len, sequences)) / 40
    for ids in sequences:
        expected = model.trunk(torch.tensor([ids]))[0]
        torch.testing.assert_close(features[sequence_key(ids)], expected, atol=1e-5, rtol=0)


def test_remains_of_a_killed_writer_are_removed_after_a_day(tmp_path):
    model = frozen_model()
    cache_features(model, [[1]], tmp_path)
    (folder,) = tmp_path.iterdir()
    for name in (".writing-old", ".writing-new"):
        (folder / name).mkdir()
    os.utime(folder / ".writing-old", (0, 0))
    cache_features(model, [[2]], tmp_path)
    assert sorted(path.name for path in folder.glob(".writing-*")) == [".writing-new"]


def test_only_files_with_wanted_rows_are_verified_and_once(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.training.feature_files.SHARD_TOKENS", 1)
    model = frozen_model()
    cache_features(model, SEQUENCES, tmp_path)
    hashed = []
    monkeypatch.setattr("recipe.training.feature_cache.file_hash", lambda path: hashed.append(path) or path.stem)
    features = cache_features(model, [[1, 2, 3], [4]], tmp_path)
    assert len(features.rows) == len(hashed) == 2


def test_the_caches_that_were_not_used_longest_are_forgotten_first(tmp_path):
    now, folders = time.time(), {}
    for age, patterns in ((3, ["score.*"]), (2, None), (1, ["transformer.h.2.*", "score.*"])):
        model = frozen_model(patterns)
        cache_features(model, SEQUENCES, tmp_path)
        folders[age] = tmp_path / trunk_key(model, torch.float32)
        os.utime(folders[age] / "about.json", (now - age * 86_400,) * 2)
    sizes = {folder: size for folder, _, size in list_caches(tmp_path)}
    forget_unused(tmp_path, folders[3].name, sum(sizes.values()))
    assert all(folder.exists() for folder in folders.values())
    forget_unused(tmp_path, folders[3].name, sizes[folders[1]])
    assert [folder.exists() for folder in folders.values()] == [True, False, True]
    cache_features(frozen_model(["score.*"]), SEQUENCES, tmp_path)  # which is its last use
    assert clear_caches(tmp_path, unused_days=0.5) == sizes[folders[1]]
    assert folders[3].exists()


def test_a_cache_in_use_is_not_forgotten(tmp_path):
    cache_features(frozen_model(), SEQUENCES, tmp_path)
    forget_unused(tmp_path, "another", 0)
    assert len(list(list_caches(tmp_path))) == 1


def test_the_key_holds_what_changes_the_last_bits(monkeypatch):
    """Versions, and TF32 by the setting that transformers uses, after which the older one raises."""
    model = frozen_model()
    keys = {trunk_key(model, torch.float32)}
    monkeypatch.setattr(torch.backends, "fp32_precision", "tf32")
    keys.add(trunk_key(model, torch.float32))
    for package in (torch, transformers):
        monkeypatch.setattr(package, "__version__", "0.0")
        keys.add(trunk_key(model, torch.float32))
    assert len(keys) == 4

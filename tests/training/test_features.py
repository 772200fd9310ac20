import logging
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, tiny_model
from datasets import Dataset
from transformers import GPT2Model

from recipe import freeze_except, last_blocks
from recipe.training.feature_cache import (
    FeatureDataset,
    cache_features,
    clear_caches,
    collate_features,
    list_caches,
    sequence_key,
    trunk_key,
)

SEQUENCES = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [4], [1, 2], list(range(40))]


def frozen_model(patterns=None, **config):
    model = tiny_model(**config)
    freeze_except(model, patterns or last_blocks(model.config, 1))
    return model


def files(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


def reference_states(model, ids, depth):
    """transformers' own hidden states: index `depth` is what enters block `depth`."""
    stock = GPT2Model(model.config).eval()
    stock.load_state_dict(model.transformer.state_dict())
    with torch.no_grad():
        return stock(torch.tensor([ids]), output_hidden_states=True).hidden_states[depth][0]


def test_rows_are_transformers_hidden_states_unpadded(tmp_path):
    model = frozen_model()
    features = cache_features(model, SEQUENCES, tmp_path)
    for ids in SEQUENCES:
        row = features.row(sequence_key(ids))
        assert row.shape == (len(ids), 32)
        torch.testing.assert_close(row, reference_states(model, ids, 3), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("pooling", "tokens"), [("last", 1), ("first", 1), ("mean", 3)])
def test_a_head_alone_needs_one_vector_a_text(tmp_path, pooling, tokens):
    model = frozen_model(["score.*"], pooling=pooling)
    features = cache_features(model, SEQUENCES, tmp_path)
    split = Dataset.from_dict({"input_ids": SEQUENCES, "labels": [0] * 6})
    rows = FeatureDataset(features, split)
    assert rows[0]["hidden"].shape == (tokens, 32)
    batch = collate_features([rows[i] for i in range(6)])
    batch.pop("labels")
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([ids])).logits for ids in SEQUENCES])
        torch.testing.assert_close(model.as_tail().eval()(**batch).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_tail_of_cached_rows_is_the_whole_model(tmp_path, k):
    model = frozen_model(last_blocks(tiny_model().config, k))
    features = cache_features(model, SEQUENCES, tmp_path)
    rows = FeatureDataset(features, Dataset.from_dict({"input_ids": SEQUENCES, "labels": [0, 1, 2, 0, 1, 2]}))
    batch = collate_features([rows[i] for i in range(6)])
    tail = model.as_tail().eval()
    with torch.no_grad():
        expected = torch.cat([model(torch.tensor([ids])).logits for ids in SEQUENCES])
        output = tail(**batch)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(output.loss, torch.nn.functional.cross_entropy(expected, batch["labels"]))
    names = {name for name, _ in tail.named_parameters()}
    assert names == {name for name, p in model.named_parameters() if p.requires_grad}


def test_a_second_run_computes_only_what_is_new(tmp_path):
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
    assert features.row(sequence_key([9, 9, 9])).shape == (3, 32)


def test_the_key_covers_what_the_values_depend_on():
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


def flip_at(path, place):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def damage_one_bit(path):
    flip_at(path, 0.5)


def damage_the_head(path):
    flip_at(path, 0.01)


def damage_the_end(path):
    flip_at(path, 0.95)


def damage_cut_short(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_one_bit, damage_the_head, damage_the_end, damage_cut_short, damage_empty])
def test_a_damaged_file_is_said_and_made_again(tmp_path, caplog, damage):
    model = frozen_model()
    cache_features(model, SEQUENCES, tmp_path)
    (path,) = tmp_path.rglob("*.arrow")
    whole = path.read_bytes()
    damage(path)
    caplog.set_level(logging.WARNING, logger="recipe")
    features = cache_features(model, SEQUENCES, tmp_path)
    assert "is damaged: removed" in caplog.text
    assert [p.read_bytes() for p in tmp_path.rglob("*.arrow")] == [whole]
    torch.testing.assert_close(features.row(sequence_key([4])), reference_states(model, [4], 3), atol=1e-5, rtol=1e-4)


def test_an_interrupted_writer_leaves_nothing_that_is_trusted(tmp_path, monkeypatch):
    model = frozen_model()
    monkeypatch.setattr("recipe.training.feature_cache.ROWS_AT_ONCE", 1)
    calls = []

    def fail_at_the_third(trunk, sequences):
        calls.append(sequences)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [torch.zeros(len(ids), 32) for ids in sequences]

    with monkeypatch.context() as patched:
        patched.setattr("recipe.training.feature_cache.run_trunk", fail_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            cache_features(model, SEQUENCES, tmp_path)
    assert not list(tmp_path.rglob("*.arrow"))
    features = cache_features(model, SEQUENCES, tmp_path)
    torch.testing.assert_close(features.row(sequence_key([4])), reference_states(model, [4], 3), atol=1e-5, rtol=1e-4)


def test_concurrent_writers_agree(tmp_path):
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/training']; from test_features import *;"
        f"cache_features(frozen_model(), [[i, i + 1] for i in range(60)], {str(tmp_path)!r})"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    model, before = frozen_model(), files(tmp_path)
    features = cache_features(model, [[i, i + 1] for i in range(60)], tmp_path)
    assert files(tmp_path) == before
    row = features.row(sequence_key([7, 8]))
    torch.testing.assert_close(row, reference_states(model, [7, 8], 3), atol=1e-5, rtol=1e-4)


def test_bfloat16_rows_take_half_the_room_and_stay_close(tmp_path):
    model = frozen_model()
    exact, half = (cache_features(model, SEQUENCES, tmp_path, dtype) for dtype in (torch.float32, torch.bfloat16))
    for ids in SEQUENCES:
        row = half.row(sequence_key(ids))
        assert row.dtype == torch.bfloat16
        torch.testing.assert_close(row.float(), exact.row(sequence_key(ids)), atol=0.1, rtol=0.1)
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


def test_a_large_set_is_written_in_parts_and_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("recipe.training.feature_cache.SHARD_TOKENS", 40)
    model = frozen_model()
    sequences = [[i, *range(i % 7)] for i in range(30)]
    features = cache_features(model, sequences, tmp_path)
    files = list(tmp_path.rglob("*.arrow"))
    assert len(files) >= sum(map(len, sequences)) / 40
    for ids in sequences:
        expected = model.trunk(torch.tensor([ids]))[0]
        torch.testing.assert_close(features.row(sequence_key(ids)), expected, atol=1e-5, rtol=0)


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path):
    model = frozen_model()
    cache_features(model, [[1]], tmp_path)
    (folder,) = tmp_path.iterdir()
    for name in (".writing-old", ".writing-new"):
        (folder / name).mkdir()
    os.utime(folder / ".writing-old", (0, 0))
    cache_features(model, [[2]], tmp_path)
    assert sorted(path.name for path in folder.glob(".writing-*")) == [".writing-new"]

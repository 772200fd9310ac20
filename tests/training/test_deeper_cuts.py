"""The feature cache of a deeper cut, which starts from the rows of a shallower one."""

import logging

import pytest
import torch
from conftest import tiny_model
from frozen_trunks import SEQUENCES, damage_one_bit, frozen_model, reference_states

from recipe import freeze_except, last_blocks
from recipe.model.tail import GPT2Block
from recipe.training.feature_cache import cache_features, sequence_key, trunk_key


def cut_at(depth, **config):
    return frozen_model(last_blocks(tiny_model().config, 4 - depth), **config)


def contents(folder, model, dtype=torch.float32):
    """The names of a cut's files, which are the hashes of their bytes."""
    return {path.name for path in (folder / trunk_key(model, dtype)).glob("*.arrow")}


@pytest.fixture
def blocks_run(monkeypatch):
    """Which blocks have run, by their attention's index."""
    run, forward = set(), GPT2Block.forward

    def note(block, *args, **keywords):
        run.add(block.attn.layer_idx)
        return forward(block, *args, **keywords)

    monkeypatch.setattr(GPT2Block, "forward", note)
    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shallow", "deep"), [(1, 2), (2, 3), (1, 4), (3, 4)])
def test_a_deeper_cut_starts_from_a_shallower_one_bit_for_bit(tmp_path, caplog, blocks_run, shallow, deep, dtype):
    caplog.set_level(logging.INFO, logger="recipe")
    sequences = [[i % 98, *range(i % 23)] for i in range(90)]
    cache_features(cut_at(shallow), sequences, tmp_path / "a", dtype)
    blocks_run.clear()
    cache_features(cut_at(deep), sequences, tmp_path / "a", dtype)
    assert blocks_run == set(range(shallow, deep))
    assert f"90 of 90 texts start from their cached states after block {shallow - 1}," in caplog.text
    cache_features(cut_at(deep), sequences, tmp_path / "b", dtype)
    assert contents(tmp_path / "a", cut_at(deep), dtype) == contents(tmp_path / "b", cut_at(deep), dtype) != set()


def test_texts_that_the_shallower_cut_lacks_come_from_their_tokens(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="recipe")
    cache_features(cut_at(1), SEQUENCES, tmp_path)
    cache_features(cut_at(2), SEQUENCES[:1], tmp_path)
    features = cache_features(cut_at(3), [*SEQUENCES, [9, 9], list(range(30))], tmp_path)
    assert "5 of 7 texts start from their cached states after block 0" in caplog.text  # 5 * 1 is more than 1 * 2
    for ids in [*SEQUENCES, [9, 9], list(range(30))]:
        expected = reference_states(cut_at(3), ids, 3)
        torch.testing.assert_close(features[sequence_key(ids)], expected, atol=1e-5, rtol=1e-4)


def test_another_trunks_rows_are_no_start(tmp_path, caplog, blocks_run):
    """Other weights below the cut, another dtype, a deeper cut; other weights above it do not matter."""
    caplog.set_level(logging.INFO, logger="recipe")
    other = cut_at(2)
    with torch.no_grad():
        other.transformer.h[1].mlp.c_fc.bias[0].add_(1e-3)
    cache_features(other, SEQUENCES, tmp_path)
    cache_features(cut_at(2), SEQUENCES, tmp_path, torch.bfloat16)
    cache_features(cut_at(4), SEQUENCES, tmp_path)
    blocks_run.clear()
    cache_features(cut_at(3), SEQUENCES, tmp_path)
    assert blocks_run == {0, 1, 2}
    assert "start from" not in caplog.text
    with torch.no_grad():
        other.transformer.h[2].mlp.c_fc.bias[0].add_(1e-3)
    blocks_run.clear()
    cache_features(freeze_to(other, 3), SEQUENCES, tmp_path)
    assert blocks_run == {2}


def freeze_to(model, depth):
    freeze_except(model, last_blocks(model.config, 4 - depth))
    return model


@pytest.mark.parametrize(
    ("problem", "told"),
    [("damage", "is damaged: removed"), ("keys", "after block 1 are left, not read"), ("about", "")],
)
def test_a_shallower_cut_that_cannot_be_read_is_left(tmp_path, caplog, problem, told):
    caplog.set_level(logging.INFO, logger="recipe")
    cache_features(cut_at(2), SEQUENCES, tmp_path / "a")
    cache_features(cut_at(3), SEQUENCES, tmp_path / "b")
    (rows,) = (tmp_path / "a").rglob("*.arrow")
    if problem == "damage":
        damage_one_bit(rows)
    elif problem == "keys":
        rows.with_suffix(".keys").unlink()
        rows.with_suffix(".keys").mkdir()
    else:
        rows.with_name("about.json").write_text("[]")
    cache_features(cut_at(3), SEQUENCES, tmp_path / "a")
    assert "start from" not in caplog.text
    assert told in caplog.text
    assert contents(tmp_path / "a", cut_at(3)) == contents(tmp_path / "b", cut_at(3))

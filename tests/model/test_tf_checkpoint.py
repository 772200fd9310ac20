"""TensorFlow's checkpoints: checksums as RFC 3720 has them, and every kind of damage noticed."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from recipe.errors import RecipeError
from recipe.model import tf_checkpoint
from recipe.model.convert import OPENAI_NAMES, build_model, make_config, read_source, rename
from recipe.model.tf_checkpoint import crc32c, masked_crc32c

OPENAI = Path(__file__).parent / "data" / "openai_gpt2"


def bitwise_crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_checksums(monkeypatch):
    """Of RFC 3720, B.4, and of lengths around a row's, against one bit at a time."""
    known = {b"123456789": 0xE3069283, bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E}
    for data, crc in known.items():
        assert crc32c(np.frombuffer(data, dtype=np.uint8)) == crc
    monkeypatch.setattr(tf_checkpoint, "FOLD_WORDS", 64)
    for length in (0, 1, 3, 4, 5, 7, 8, 255, 256, 257, 1023, 1024, 1500):
        data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8)
        assert crc32c(data) == bitwise_crc32c(data.tobytes()), length


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(OPENAI, tmp_path / "gpt2")


def change(path, at, new):
    content = bytearray(path.read_bytes())
    content[at : at + len(new)] = new
    path.write_bytes(content)


def refuses(folder, message):
    with pytest.raises(RecipeError, match=message):
        read_source(folder)


def test_every_tensor_is_checked(folder):
    """A bit of any part of the data, by the first byte of each 2,048."""
    data = folder / "model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    for at in range(0, len(whole), 2048):
        change(data, at, bytes([whole[at] ^ 1]))
        refuses(folder, r"data-00000-of-00001: model/\S+ is damaged, its checksum differs")
        data.write_bytes(whole)
    data.write_bytes(whole[:-1])
    refuses(folder, "is missing or cut short")
    data.unlink()
    refuses(folder, "is missing or cut short")


def test_a_damaged_index_is_refused(folder):
    index = folder / "model.ckpt.index"
    whole = index.read_bytes()
    footer = len(whole) - 48
    handles, end = tf_checkpoint.read_varints(whole, 4, footer)
    unused = {*range(handles[0], handles[2]), footer, footer + 1, *range(end, len(whole) - 8)}  # the metaindex; padding
    for at in range(0, len(whole), 11):
        change(index, at, bytes([whole[at] ^ 4]))
        if at not in unused:
            refuses(folder, "damaged")
        index.write_bytes(whole)
    for content in (whole[:100], b"", b"PK\x03\x04"):
        index.write_bytes(content)
        refuses(folder, r"model.ckpt.index is damaged, or no index .*: download it again")


def test_what_is_not_supported_is_named(folder):
    """A compressed block, by its byte and a checksum that fits; other dtypes."""
    index = folder / "model.ckpt.index"
    whole = index.read_bytes()
    footer = len(whole) - 48
    handles, _ = tf_checkpoint.read_varints(whole, 4, footer)
    start, size = handles[2:]
    change(index, start + size, b"\x01")
    block = np.frombuffer(index.read_bytes()[start : start + size + 1], dtype=np.uint8)
    change(index, start + size + 1, struct.pack("<I", masked_crc32c(block)))
    refuses(folder, "index is compressed, which is not supported")
    with pytest.raises(RecipeError, match=r"x is not a whole float32 tensor \(dtype \[2\]\)"):
        tf_checkpoint.read_tensor(folder / "model.ckpt", "x", {1: [2]}, 1)


def test_the_latest_of_several_checkpoints_is_read(folder):
    for name in ("index", "data-00000-of-00001"):
        shutil.copy(folder / f"model.ckpt.{name}", folder / f"model-20.{name}")
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    refuses(folder, "model.ckpt.data-00000-of-00001 is missing")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model-20"\n')
    for source in (folder, folder / "model-20.index"):
        assert read_source(source).stated["n_head"] == 2
    (folder / "checkpoint").unlink()
    refuses(folder, "2 checkpoints, and no file `checkpoint`")


def test_variables_of_another_model_are_refused_by_name(folder):
    source = read_source(folder)
    source.tensors |= rename({"model/h0/attn/c_attn/w/Adam": source.tensors["wte.weight"]}, OPENAI_NAMES)
    with pytest.raises(RecipeError, match="model/h0/attn/c_attn/w/Adam is no weight of a GPT-2"):
        build_model(source, make_config(source))


def test_hparams_are_kept_to(folder):
    """A block that is missing altogether would not be missed by names."""
    source = read_source(folder)
    source.tensors = {name: tensor for name, tensor in source.tensors.items() if not name.startswith("h.1.")}
    with pytest.raises(RecipeError, match="its own files say n_layer 2, but here it is 1"):
        make_config(source)

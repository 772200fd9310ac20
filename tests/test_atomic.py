import json

import pytest
import xxhash

from recipe.atomic import file_hash, write_files, write_json


def test_write_files_leaves_nothing_half_written(tmp_path):
    (tmp_path / "old.json").write_text("old")

    def fail(folder):
        (folder / "old.json").write_text("new")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_files(tmp_path, fail)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.json", "old")]
    write_json(tmp_path / "old.json", {"é": 1})
    assert (tmp_path / "old.json").read_text() == '{\n  "é": 1\n}\n'
    write_json(tmp_path / "old.json", {"a": [float("nan"), (1.5, float("inf"))]})
    assert json.loads((tmp_path / "old.json").read_text()) == {"a": [None, [1.5, None]]}


def test_file_hash_is_xxh3_of_the_bytes(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 40_000)  # more than is read at once
    assert file_hash(tmp_path / "x") == xxhash.xxh3_128_hexdigest(bytes(range(256)) * 40_000)

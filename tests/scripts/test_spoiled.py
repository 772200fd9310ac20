"""Folders of a run, a model or a cache that someone has spoiled: one line, and nothing of the user's is removed."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import FAST, assert_refused, fields_of, make_texts, run_training, same_weights, tiny_folder

TRAIN, EVALUATE = ["python", "scripts/train.py"], ["python", "scripts/evaluate_model.py"]
PREDICT, CACHES = ["python", "scripts/predict.py"], ["python", "scripts/feature_cache.py"]


@pytest.fixture
def folder(finished, tmp_path):
    """A copy to spoil."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    "content", [b"garbage", b"", b"\x80\x04]\x94.", np.array(["a"]), np.zeros((2, 2), np.uint64), np.zeros(2)]
)
def test_hashes_of_training_texts_that_are_none(folder, run_here, content):
    path = folder / "trained_on.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    assert_refused(run_here([*EVALUATE, "--model_dir", folder, "--no_baselines"]), "trained_on.npy: cannot be read")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"version": "1.0"}'),
        ("tokenizer_config.json", "[]"),
        ("run_config.yaml", "a: " + "[" * 3000),
        ("run_config.yaml", "a: 2021-13-45"),
        ("run_config.yaml", "text_pair_separator: 5"),
    ],
)
def test_files_beside_a_model(folder, run_here, name, content):
    (folder / name).write_text(content)
    assert_refused(run_here([*PREDICT, "--model_dir", folder, "--text", "x"]), "")


@pytest.mark.parametrize("length", [0, -1, 1.5, "abc"])
def test_a_model_max_length_that_is_none(folder, run_here, length):
    change(folder / "tokenizer_config.json", model_max_length=length)
    assert_refused(run_here([*PREDICT, "--model_dir", folder, "--text", "x"]), "no tokenizer that loads")


def test_splits_of_another_shape(folder, run_here):
    path = folder / "splits" / "test.parquet"
    table = pa.parquet.read_table(path)
    plain = pa.table({"text": table["text"], "label": table["label"]}).replace_schema_metadata(None)
    wrong = table.set_column(1, table.schema.field("label"), pa.array([9] * len(table), pa.int64()))
    for spoiled in (plain, wrong, table[:0]):
        pa.parquet.write_table(spoiled, path)
        assert_refused(run_here([*EVALUATE, "--model_dir", folder]), "test.parquet: cannot be read")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_a_checkpoint_damaged_without_a_change_of_size_is_passed_over(texts_file, tmp_path, run_here, name):
    command = [*fields_of(tiny_folder(), texts_file, tmp_path / "run"), *FAST, "--num_train_epochs", "3"]
    command += ["--save_total_limit", "3"]
    assert run_here([*TRAIN, *command]).returncode == 0
    shutil.copytree(tmp_path / "run", tmp_path / "straight")
    change(tmp_path / "run" / "run_state.json", finished=False)
    newest = max((tmp_path / "run").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    content = bytearray((newest / name).read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20] = bytes(20)
    (newest / name).write_bytes(content)
    result = run_here([*TRAIN, *command])
    assert result.returncode == 0, result.stderr
    assert f"{newest} is incomplete ({name} is damaged): passed over" in result.stderr
    assert same_weights(tmp_path / "run", tmp_path / "straight")


def test_only_files_of_ours_are_cleared(texts_file, tmp_path, run_here):
    """A folder of the user's with an about.json stays."""
    cache = tmp_path / "cache"
    fields = ["--feature_cache", "on", "--feature_cache_dir", str(cache)]
    run_training(texts_file, tmp_path / "run", *fields)
    (cache / "thesis").mkdir()
    about = {"model": "x", "blocks": 1, "dtype": "a", "one_token_a_text": True}
    (cache / "thesis" / "about.json").write_text(json.dumps(about))
    (cache / "thesis" / "thesis.tex").write_text("years")
    assert run_here([*CACHES, "--feature_cache_dir", cache, "--clear"]).returncode == 0
    left = sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())
    assert left == ["thesis/about.json", "thesis/thesis.tex"]
    for odd in ("-5", "nan"):
        result = run_here([*CACHES, "--feature_cache_dir", cache, f"--clear_unused_days={odd}"])
        assert_refused(result, "clear_unused_days")


def test_outputs_never_replace_inputs_or_the_models_own_files(folder, texts_file, tmp_path, run_here):
    texts = tmp_path / "texts.json"
    make_texts(20, ["sport", "medicine"]).to_json(texts, orient="records", lines=True)
    for path in (texts, folder / "config.json"):
        before = path.read_bytes()
        command = ["--model_dir", folder, "--output_file", path, "--overwrite_output_file"]
        assert_refused(run_here([*EVALUATE, *command, "--test_file", texts, "--no_baselines"]), "output_file")
        assert_refused(run_here([*PREDICT, *command, "--input_file", texts]), "output_file")
        assert path.read_bytes() == before
    result = run_here([*EVALUATE, "--model_dir", folder, "--calibrate", "--output_dir", folder / "splits" / "x"])
    assert_refused(result, "lies in the model's own folder")


@pytest.mark.parametrize(
    ("script", "fields", "message"),
    [
        ("predict", "--text x --max_row_mb nan", "max_row_mb is nan"),
        ("predict", "--text x --escape_formulas banana", "banana"),
        ("predict", "--text x --device meta", "device 'meta' cannot be used"),
        ("predict", "--text x --device hpu", "device 'hpu' cannot be used"),
        ("inspect", "--seed=-1", "seed is -1"),
        ("inspect", "--num_labels 1000000000", "num_labels is 1000000000"),
    ],
)
def test_options(folder, run_here, script, fields, message):
    command = [*PREDICT, "--model_dir", folder]
    if script == "inspect":
        command = ["python", "scripts/inspect_model.py", "--model_name_or_path", folder, "--text", "x"]
    assert_refused(run_here([*command, *fields.split()]), message)

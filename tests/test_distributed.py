"""Several processes: launched as the README says, against one process that sees the same global batches."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate.utils import gather_object
from conftest import FAST, ROOT, assert_one_line, make_texts, run, run_training, tiny_folder
from safetensors.torch import load_file

from recipe.distributed import (
    any_process,
    check_launch,
    check_world_size,
    in_every_process,
    on_main_process,
)
from recipe.errors import RecipeError

pytestmark = pytest.mark.launch
LABELS = ["sport", "medicine", "technology"]
LAUNCH = ["accelerate", "launch", "--config_file", "accelerate_configs/multi_cpu.yaml"]


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """160 texts to train on, which batches of 16 divide; 21 and 37 to validate and test on, which nothing divides."""
    folder = tmp_path_factory.mktemp("splits")
    for seed, (name, count) in enumerate({"train": 160, "validation": 21, "test": 37}.items()):
        frame = make_texts(count, LABELS, seed)
        frame.assign(text=name + " " + frame["text"]).to_csv(folder / f"{name}.csv", index=False)
    return folder


def fields(splits, cache):
    files = [word for name in ("validation", "test") for word in (f"--{name}_file", str(splits / f"{name}.csv"))]
    choices = ["--class_weight", "balanced", "--train_sampling_strategy", "group_by_length", "--save_total_limit", "2"]
    choices += ["--eval_strategy", "steps", "--eval_steps", "15", "--save_strategy", "steps", "--save_steps", "15"]
    return [*files, *choices, "--num_train_epochs", "2", "--feature_cache_dir", str(cache)]


def launch(splits, output_dir, *more):
    words = ["--model_name_or_path", tiny_folder(), "--train_file", splits / "train.csv", "--output_dir", output_dir]
    words += [*FAST, *fields(splits, splits / "shares"), "--per_device_train_batch_size", "8"]
    result = run(*LAUNCH, "scripts/train.py", *words, *more)
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def launched(splits):
    return launch(splits, splits / "two")


@pytest.fixture(scope="module")
def one(splits):
    """The figures of one process."""
    return run_training(splits / "train.csv", splits / "one", *fields(splits, splits / "alone"))


@pytest.mark.slow
def test_two_processes_train_the_model_of_one(launched, one, splits):
    two = json.loads((splits / "two" / "test_results.json").read_text())
    assert one.keys() == two.keys()
    assert {name: two[name] for name in one} == pytest.approx(one, rel=1e-4, abs=1e-5)
    a, b = (load_file(splits / name / "model.safetensors") for name in ("one", "two"))
    for name in a:
        torch.testing.assert_close(b[name], a[name], atol=1e-5, rtol=0)
    logs = [json.loads((splits / name / "trainer_state.json").read_text())["log_history"] for name in ("one", "two")]
    losses = [[entry["eval_loss"] for entry in log if "eval_loss" in entry] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_two_processes_resume_bit_by_bit(launched, splits):
    """From the middle of the second epoch of 10 steps."""
    shutil.copytree(splits / "two" / "checkpoint-15", splits / "again" / "checkpoint-15")
    launch(splits, splits / "again", "--resume_from_checkpoint", "last")
    a, b = (load_file(splits / name / "model.safetensors") for name in ("two", "again"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_main_process_alone_prints(launched, splits):
    assert launched.stdout.count("Test set, 37 texts") == 1
    assert launched.stderr.count("trainable  ") == 1


@pytest.mark.slow
def test_features_are_computed_in_shares(launched, one, splits):
    shares = [pd.Series(path.stat().st_size) for path in (splits / "shares").rglob("*.arrow")]
    assert len(shares) == 2
    (alone,) = (path.stat().st_size for path in (splits / "alone").rglob("*.arrow"))
    assert sum(int(share.iloc[0]) for share in shares) == pytest.approx(alone, rel=0.02)


@pytest.mark.slow
def test_file_is_predicted_in_shares_and_written_in_order(launched, splits, tmp_path, run_here):
    model = ["scripts/predict.py", "--model_dir", splits / "two", "--window", "16"]
    predict = [*model, "--input_file", splits / "test.csv", "--output_file"]
    for result in (run(*LAUNCH, *predict, tmp_path / "two.csv"), run_here(["python", *predict, tmp_path / "one.csv"])):
        assert result.returncode == 0, result.stderr[-3000:]
    one, two = (pd.read_csv(tmp_path / name) for name in ("one.csv", "two.csv"))
    assert two["text"].tolist() == pd.read_csv(splits / "test.csv")["text"].tolist()
    assert two["label"].tolist() == one["label"].tolist()
    np.testing.assert_allclose(two.filter(like="probability"), one.filter(like="probability"), atol=1e-5)


def test_world_size_without_ranks_fails(splits, tmp_path, monkeypatch, run_here):
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = [
        "--train_file",
        splits / "train.csv",
        "--output_dir",
        tmp_path / "x",
        "--model_name_or_path",
        tiny_folder(),
    ]
    result = run_here(["python", "scripts/train.py", *words])
    assert_one_line(result, "WORLD_SIZE is 2, but RANK and LOCAL_RANK are not set")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_multi_cpu_that_starts_one_process_fails(splits, tmp_path):
    text = (ROOT / "accelerate_configs" / "multi_cpu.yaml").read_text()
    (tmp_path / "mpi.yaml").write_text(text.replace("distributed_type: MULTI_GPU", "distributed_type: MULTI_CPU"))
    words = [
        "--train_file",
        splits / "train.csv",
        "--output_dir",
        tmp_path / "x",
        "--model_name_or_path",
        tiny_folder(),
    ]
    result = run("accelerate", "launch", "--config_file", tmp_path / "mpi.yaml", "scripts/train.py", *words)
    assert result.returncode != 0
    assert "asked for several processes but started one" in result.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("environment", "use_cpu", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, True, "FSDP needs GPUs"),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, True, "DeepSpeed needs GPUs"),
        ({"LOCAL_WORLD_SIZE": "64", "WORLD_SIZE": "64", "RANK": "0", "LOCAL_RANK": "0"}, False, "64 processes were started"),
    ],
)  # fmt: skip
def test_impossible_launches_are_refused(monkeypatch, environment, use_cpu, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    check_launch(use_cpu=True)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RecipeError, match=message):
        check_launch(use_cpu)


def test_fewer_processes_than_launched_fail(monkeypatch):
    check_world_size(1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match="4 processes were launched, but 1 work together"):
        check_world_size(1)


TALK = """
import sys
from recipe.errors import RecipeError
from recipe.distributed import PartialState, any_process, gather_object, in_every_process, on_main_process
state = PartialState(cpu=True)
rank = state.process_index
def fail():
    raise RecipeError("only the main process looked")
try:
    on_main_process(fail)
except RecipeError as error:
    caught = str(error)
def fail_in_the_second():
    if rank == 1:
        raise OSError("disk full")
    return "fine"
try:
    in_every_process(fail_in_the_second)
except Exception as error:
    failed = f"{type(error).__name__}: {error}"
gathered = gather_object([f"{rank}a", f"{rank}b"][: 2 - rank])
heard = [rank, on_main_process(lambda: rank), any_process(rank == 1), any_process(False), gathered, caught, failed, in_every_process(str, rank)]
sys.stdout.write(" ".join(map(str, heard)) + "\\n")  # in one piece: two processes write to one pipe
state.destroy_process_group()
"""


def test_processes_exchange_values(tmp_path):
    (tmp_path / "talk.py").write_text(TALK)
    lines = sorted(run(*LAUNCH, tmp_path / "talk.py").stdout.splitlines())
    common = "0 True False ['0a', '0b', '1a']"
    stopped = "another process stopped: process"
    failures = [
        f"only the main process looked RecipeError: {stopped} 1: disk full",
        f"{stopped} 0: only the main process looked OSError: disk full",
    ]
    assert lines == [f"{rank} {common} {failures[rank]} {rank}" for rank in (0, 1)]


def test_one_process_passes_values_through():
    assert on_main_process(lambda: 7) == 7
    assert in_every_process(str, 7) == "7"
    with pytest.raises(ZeroDivisionError):
        in_every_process(lambda: 1 / 0)
    assert any_process(True)
    assert not any_process(False)
    assert gather_object([1, 2]) == [1, 2]


READ_ONCE = """
import sys
from recipe import DataArguments, choose_windows, load_config, load_splits, load_tokenizer, once_a_machine, tokenize_texts
from recipe.data import dataset, tokenization
from recipe.distributed import PartialState
state = PartialState(cpu=True)
read, encode, calls = dataset.load_rows, tokenization.encode_texts, []
dataset.load_rows = lambda *args: calls.append("read") or read(*args)
tokenization.encode_texts = lambda *args: calls.append("encoded") or encode(*args)
path, model = sys.argv[1:]
config = load_config(model)
splits = once_a_machine(load_splits, DataArguments(train_file=[path]))
windows = choose_windows(config, 8)
rows = once_a_machine(tokenize_texts, splits, load_tokenizer(model, config), windows)
files = {part.cache_files[0]["filename"] for data in (splits, rows) for part in data.values()}
heard = [state.process_index, len(files), len(calls), rows.coverage["train"].tokens, sum(map(len, rows["train"]["input_ids"])), len(splits["test"]["text"][0])]
sys.stdout.write(" ".join(map(str, heard)) + "\\n")
state.wait_for_everyone()
state.destroy_process_group()
"""


@pytest.mark.slow
def test_the_first_process_of_a_machine_reads_and_the_others_map_its_files(splits, tmp_path):
    (tmp_path / "read.py").write_text(READ_ONCE)
    result = run(*LAUNCH, tmp_path / "read.py", splits / "train.csv", tiny_folder())
    first, second = (line.split() for line in sorted(result.stdout.splitlines()))
    assert first[:3] == ["0", "6", "4"], result.stderr[-2000:]  # read, and three splits encoded
    assert second == ["1", "6", "0", *first[3:]]

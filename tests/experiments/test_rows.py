"""Tables of experiments: their files, their runs through the shell, and figures by SciPy."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NANO, ROOT, assert_refused, make_texts, run, tiny_folder
from safetensors.torch import load_file
from scipy.stats import binomtest
from transformers import GPT2Config, GPT2Model

from recipe.config import parse_arguments, resolved_config
from recipe.errors import RecipeError
from recipe.experiments.rows import arguments_of, check_rows, describe, finished_runs, load_experiments, summarize

BASE = "base: recipe/configs/quickstart.yaml\n"
ODD = "max_length: null, eval_strategy: no, load_best_model_at_end: false, use_cpu: true, lr_scheduler_kwargs: {num_cycles: 2}"


def write(tmp_path, text):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return str(path)


def test_a_row_wins_over_the_command_line_and_this_over_the_base(tmp_path):
    table = load_experiments(
        write(tmp_path, f"{BASE}rows:\n  plain:\n  two: {{{ODD}, trainable: [head, 'x.*'], max_steps: 3}}\n")
    )
    assert table.seeds == [42]
    words = arguments_of(table, table.rows[1], ["--learning_rate", "1", "--max_steps", "7", "--max_length", "9"])
    model_args, data_args, training_args = parse_arguments([*words, "--output_dir", str(tmp_path)])
    assert model_args.trainable == ["head", "x.*"]
    assert (training_args.learning_rate, training_args.num_train_epochs, training_args.max_steps) == (1, 3, 3)
    assert (data_args.max_length, training_args.eval_strategy, training_args.use_cpu) == (9, "no", True)
    assert training_args.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {}}\n", "base is None: give the path of a recipe"),
        (BASE, "rows is no mapping"),
        (f"{BASE}rows: [a]\n", "rows is no mapping"),
        (f"{BASE}row: {{}}\n", "unknown key 'row'"),
        (f"{BASE}seeds: []\nrows: {{a: {{}}}}\n", r"seeds is \[\]"),
        (f"{BASE}rows:\n  a: {{}}\n  a: {{}}\n", "'a' occurs twice"),
        (f"{BASE}rows:\n  a b: {{}}\n  a-b: {{}}\n", "row 'a b' has the folder 'a_b': rename it"),
        (f"{BASE}rows: {{a: 3}}\n", "row 'a' is no mapping"),
        (f"{BASE}rows: {{a: {{seed: 3}}}}\n", "row 'a' sets seed, which is no row's to set"),
        (f"{BASE}rows: {{a: {{skip: no}}, b: {{published: x}}}}\n", "published is 'x'"),
        (f"{BASE}rows: {{a: {{skip: why}}}}\n", "the first row, which all others are compared with, is skipped"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_experiments(write(tmp_path, text))


def leave_run(folder, right, f1=0.5, seconds=2.0, texts="text"):
    (folder / "splits").mkdir(parents=True)
    pd.DataFrame({"text": [f"{texts} {i}" for i in range(len(right))]}).to_parquet(folder / "splits" / "test.parquet")
    answers = pd.DataFrame({"label": ["a"] * len(right), "prediction": np.where(right, "a", "NA")})
    answers = answers.assign(number=np.arange(len(right)) + 1).sort_values("prediction")  # mistakes first, as a run's
    answers.to_csv(folder / "test_predictions.csv", index=False)
    (folder / "run_state.json").write_text(
        json.dumps({"finished": True, "processes": 1, "config": {"output_dir": str(folder)}})
    )
    (folder / "test_results.json").write_text(json.dumps({"test_macro_f1": f1}))
    (folder / "train_results.json").write_text(json.dumps({"train_runtime": seconds, "trainable_parameters": 7}))


def runs_below(folder):
    """What leave_run has left, by row and seed."""
    runs = {}
    for path in folder.glob("*/seed-*"):
        runs.setdefault(path.parent.name, {})[int(path.name.removeprefix("seed-"))] = path
    return {row: dict(sorted(of_row.items())) for row, of_row in runs.items()}


def test_rows_are_summed_up_over_their_seeds(tmp_path):
    table = load_experiments(
        write(tmp_path, f"{BASE}seeds: [1, 2]\nrows: {{a: {{published: 90}}, b: , c: {{skip: why}}, d: }}\n")
    )
    rng = np.random.default_rng(0)
    right = {(row, seed): rng.random(50) < share for row, share in (("a", 0.9), ("b", 0.6)) for seed in (1, 2)}
    for (row, seed), answers in right.items():
        leave_run(tmp_path / row / f"seed-{seed}", answers, f1=seed / 10, seconds=seed)
    found = summarize(table, runs_below(tmp_path), {"d": "it broke"})
    accuracies = [100 * right["b", seed].mean() for seed in (1, 2)]
    assert found.loc["b", "accuracy"] == pytest.approx(np.mean(accuracies))
    assert found.loc["b", "sd"] == pytest.approx(np.std(accuracies, ddof=1))
    count = int(sum(right["b", seed].sum() for seed in (1, 2)))
    low, high = binomtest(count, 100).proportion_ci(method="wilson")
    assert (found.loc["b", "low"], found.loc["b", "high"]) == pytest.approx((100 * low, 100 * high))
    gains = (right["b", 1] & ~right["a", 1]).sum()
    losses = (~right["b", 1] & right["a", 1]).sum()
    assert found.loc["b", "mcnemar_p"] == pytest.approx(binomtest(int(gains), int(gains + losses)).pvalue)
    assert found["macro_f1"].iloc[0] == pytest.approx(0.15)
    assert found["seeds"].tolist() == [2, 2, 0, 0]
    assert found["test_texts"].iloc[:2].tolist() == [50, 50]
    shown = describe(found)
    assert "not run: c: why" in shown
    assert "not run: d: it broke" in shown
    assert "for other texts it is wider" in shown
    assert "nan" not in shown.lower()


def test_seconds_are_of_runs_that_were_not_interrupted(tmp_path):
    table = load_experiments(write(tmp_path, f"{BASE}seeds: [1, 2]\nrows: {{a: , b: }}\n"))
    for row, seed in (("a", 1), ("a", 2), ("b", 1)):
        leave_run(tmp_path / row / f"seed-{seed}", [True, False], seconds=100 * seed)
    for run_folder in (tmp_path / "a" / "seed-1", tmp_path / "b" / "seed-1"):
        figures = json.loads((run_folder / "train_results.json").read_text())
        (run_folder / "train_results.json").write_text(json.dumps({**figures, "train_resumed": True}))
    found = summarize(table, runs_below(tmp_path), {})
    assert found.loc["a", "seconds"] == 200
    assert np.isnan(found.loc["b", "seconds"])
    assert "nan" not in describe(found).lower()


def test_finished_runs_are_those_of_these_options_and_files(tmp_path):
    """`c` is left out today; its first seed was trained at another rate, its third before the model changed."""
    (model := tmp_path / "model").mkdir()
    (model / "config.json").write_text((tiny_folder() / "config.json").read_text())
    fields = ["--model_name_or_path", str(model), "--train_file", str(tmp_path / "my.csv")]
    table = load_experiments(
        write(tmp_path, f"{BASE}seeds: [1, 2, 3]\nrows: {{a: , c: {{skip: later, max_steps: 3}}}}\n")
    )
    for row, seed, rate in (("a", 1, "1e-3"), ("a", 2, "1e-3"), ("c", 1, "1e-2"), ("c", 2, "1e-3"), ("c", 3, "1e-3")):
        folder = tmp_path / row / f"seed-{seed}"
        leave_run(folder, [True])
        steps = ["--max_steps", "3"] if row == "c" else []
        words = ["--config", table.base, *fields, "--learning_rate", rate, *steps, "--seed", str(seed)]
        config = resolved_config(*parse_arguments([*words, "--output_dir", str(folder)]))
        (folder / "run_state.json").write_text(json.dumps({"finished": True, "processes": 1, "config": config}))
    os.utime(tmp_path / "c" / "seed-3" / "run_state.json", (0, 0))
    runs = finished_runs(table, [*fields, "--learning_rate", "1e-3"], tmp_path, failed={("a", 2): "seed 2: it broke"})
    assert {row: [*of_row] for row, of_row in runs.items()} == {"a": [1], "c": [2]}


def test_rows_are_compared_on_the_same_texts_and_seed(tmp_path):
    """The first row lacks seed 1, `other` was tested on other texts; a row with a run is no row that was not run."""
    table = load_experiments(write(tmp_path, f"{BASE}seeds: [1, 2]\nrows: {{a: , b: {{skip: gone}}, other: }}\n"))
    rng = np.random.default_rng(1)
    first, *mine = (rng.random(40) < share for share in (0.9, 0.2, 0.5))
    leave_run(tmp_path / "a" / "seed-2", first)
    for seed, right in enumerate(mine, start=1):
        leave_run(tmp_path / "b" / f"seed-{seed}", right)
        leave_run(tmp_path / "other" / f"seed-{seed}", right, texts="another")
    found = summarize(table, runs_below(tmp_path), {"a": "seed 1: it broke"})
    gains, losses = int((mine[1] & ~first).sum()), int((~mine[1] & first).sum())
    assert found.loc["b", "mcnemar_p"] == pytest.approx(binomtest(gains, gains + losses).pvalue)
    assert np.isnan(found.loc["other", "mcnemar_p"])
    assert found["note"].tolist() == ["seed 1: it broke", "", ""]
    assert describe(found).splitlines()[-1] == "a: seed 1: it broke"


def test_rows_with_a_base_of_their_own_are_left_out_where_the_command_line_names_one(tmp_path):
    """The complete file of the book's experiments, so that its options are checked too."""
    table = load_experiments("recipe/configs/experiments_book.yaml")
    fields = ["--model_name_or_path", str(NANO), "--train_file", "SMSSpamCollection", "--learning_rate=1e-3"]
    check_rows(table, fields, tmp_path / "out")
    assert len(table.rows) == 19
    left_out = [row.name for row in table.rows if row.skip and "its base model is openai-community/" in row.skip]
    assert left_out == ["gpt2-medium", "gpt2-large", "gpt2-xl", "gpt2-xl, all blocks", "gpt2-xl, LoRA"]
    assert sum(not row.skip for row in table.rows) == 10
    assert not (tmp_path / "out").exists()


def test_a_base_that_every_row_would_publish_is_refused(tmp_path):
    (tmp_path / "base.yaml").write_text("push_to_hub: true\nhub_model_id: me/spam\n")
    table = load_experiments(write(tmp_path, f"base: {tmp_path / 'base.yaml'}\nrows: {{a: }}\n"))
    with pytest.raises(RecipeError, match=r"base\.yaml sets push_to_hub, which every row would do: drop it there"):
        check_rows(table, ["--model_name_or_path", str(tiny_folder()), "--train_file", "my.csv"], tmp_path)


@pytest.mark.parametrize("field", ["seed", "push_to_hub", "resume_from_checkpoint", "hub_token", "hub-token"])
def test_options_of_each_run_are_refused(tmp_path, field):
    table = load_experiments(write(tmp_path, f"{BASE}rows: {{a: }}\n"))
    with pytest.raises(RecipeError, match=f"^{field.replace('-', '_')} is .*: leave it out"):
        check_rows(table, ["--learning_rate", "1", f"--{field}", "1"], tmp_path)


@pytest.fixture
def base(tmp_path):
    """The first lines of a file of experiments, over a recipe of the tiny model."""
    make_texts(80, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    recipe = {"model_name_or_path": str(tiny_folder()), "train_file": str(tmp_path / "my.csv"), "learning_rate": 1e-3}
    recipe |= {"num_train_epochs": 1, "baselines": False, "plots": False}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(recipe))
    return f"base: {tmp_path / 'base.yaml'}\n"


@pytest.mark.launch
def test_a_table_runs_goes_on_and_names_what_is_wrong(base, tmp_path, run_here):
    """Two rows and one that has no weights here; then a third one, for which the others are not run again."""
    rows = "seeds: [1]\nrows:\n  plain:\n  random: {random_weights: true, trainable: [all]}\n"
    rows += "  larger: {model_name_or_path: nowhere/gpt2-large}\n"
    path, out = write(tmp_path, base + rows), tmp_path / "out"
    command = ["python", "scripts/experiments.py", "--config", path, "--output_dir", out]
    assert_refused(run_here([*command, "--learning_rat", "1"]), "row 'plain': the command line: unknown field")
    assert not out.exists()
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert "not run: larger: model 'nowhere/gpt2-large'" in result.stdout
    state = out / "plain" / "seed-1" / "run_state.json"
    before, figures = state.stat().st_mtime_ns, json.loads((out / "experiments.json").read_text())
    accuracy = json.loads((state.parent / "test_results.json").read_text())["test_accuracy"]
    assert figures["rows"][0]["accuracy"] == pytest.approx(100 * accuracy)
    assert (out / "experiments.png").stat().st_size > 5000
    torch.manual_seed(1)
    started, pretrained = GPT2Model(GPT2Config.from_pretrained(tiny_folder())), tiny_folder() / "model.safetensors"
    saved = load_file(out / "random" / "random_weights" / "seed-1" / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in started.state_dict().items() if name in saved)
    assert not torch.equal(saved["wte.weight"], load_file(pretrained)["wte.weight"])

    write(tmp_path, base + rows + "  broken: {max_train_samples: 1}\n")
    assert_refused(run_here(command), "1 rows failed (broken)")
    assert state.stat().st_mtime_ns == before
    table = pd.read_csv(out / "experiments.csv", index_col="row")
    assert table.loc["broken", "note"].startswith("seed 1: ")
    assert table["seeds"].tolist() == [1, 1, 0, 0]
    result = run_here([*command, "--rows", "random", "--seeds", "1", "1"])
    assert result.returncode == 0, result.stderr
    assert "not run" not in result.stdout  # which was asked for
    assert "\nrandom " in run_here([*command, "--rows", "plain"]).stdout  # run by the first call
    assert result.stdout.endswith(f"experiments.csv, {out}/experiments.json, {out}/experiments.png\n")
    assert_refused(run_here([*command, "--rows", "randon"]), "no row is called 'randon': did you mean 'random'?")
    assert [row["seeds"] for row in json.loads((out / "experiments.json").read_text())["rows"]] == [1, 1, 0, 0]
    other = "seed-1 holds a finished run of other options or data (learning_rate 0.001 there, 0.5 here)"
    assert_refused(run_here([*command, "--learning_rate", "0.5"]), other)
    os.utime(tmp_path / "my.csv")
    assert_refused(run_here(command), f"({tmp_path / 'my.csv'} has changed since)")
    assert_refused(run_here([*command, "--jobs", "0"]), "jobs is 0: take a whole number from 1 up to 64")


@pytest.mark.launch
def test_a_table_whose_rows_all_fail_is_one_line(base, tmp_path, run_here):
    path = write(tmp_path, f"{base}rows: {{plain: }}\n")
    command = ["python", "scripts/experiments.py", "--config", path, "--output_dir", tmp_path / "out"]
    result = run_here([*command, "--train_file", tmp_path / "missing.csv"])
    told = "cannot be read (No such file or directory): check the path"
    assert result.stdout.startswith(f"not run: plain: seed 42: {tmp_path / 'missing.csv'}: {told}\n")
    assert_refused(result, "1 rows failed (plain)")


@pytest.mark.launch
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_rows_save_first_and_go_on_later(base, tmp_path, number, code):
    """Two at a time; Ctrl-C goes to all processes of a terminal. The same command then ends as one that went through."""
    path = write(tmp_path, f"{base}seeds: [1, 2]\nrows: {{plain: }}\n")
    fields = ["--num_train_epochs", "200", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    fields += ["--save_strategy", "steps", "--save_steps", "20"]
    command = ["python", "scripts/experiments.py", "--config", path, "--jobs", "2", "--output_dir", tmp_path / "out"]
    runs = [tmp_path / "out" / "plain" / f"seed-{seed}" for seed in (1, 2)]
    stopped = subprocess.Popen(
        [sys.executable, *map(str, command[1:]), *fields],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test under nohup ignores it
    )
    while not all([*run.glob("checkpoint-*/complete.json")] for run in runs):
        assert stopped.poll() is None, stopped.stderr.read()
        time.sleep(0.1)
    os.killpg(stopped.pid, number)
    assert stopped.wait(60) == code, stopped.stderr.read()
    logs = [run.with_name(f"{run.name}.log") for run in runs]
    assert all("SIGTERM: stopping" in log.read_text() and "Traceback" not in log.read_text() for log in logs)
    assert not (tmp_path / "out" / "experiments.csv").exists()
    result = run(*command, *fields)
    assert result.returncode == 0, result.stderr
    assert all("which resumes from" in log.read_text() for log in logs)
    assert json.loads((tmp_path / "out" / "experiments.json").read_text())["rows"][0]["seeds"] == 2

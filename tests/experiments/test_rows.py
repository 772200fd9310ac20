import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from conftest import FAST, ROOT, assert_refused, fields_of, make_texts, run, tiny_folder
from scipy.stats import binomtest

from recipe.errors import RecipeError
from recipe.experiments.rows import arguments_of, describe, load_experiments, summarize

BASE = "base: recipe/configs/quickstart.yaml\n"


def write(tmp_path, text):
    path = tmp_path / "table.yaml"
    path.write_text(text)
    return str(path)


def test_a_row_wins_over_the_command_line_and_this_over_the_base(tmp_path):
    table = load_experiments(
        write(tmp_path, f"{BASE}rows:\n  plain:\n  two: {{trainable: [head, 'x.*'], bf16: true}}\n")
    )
    assert table.seeds == [42]
    words = arguments_of(table, table.rows[1], ["--learning_rate", "1", "--bf16", "false"])
    assert words[:4] == ["--config", "recipe/configs/quickstart.yaml", "--learning_rate", "1"]
    assert words[-5:] == ["--trainable", "head", "x.*", "--bf16", "true"]


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
        (f"{BASE}rows: {{a: {{seed: 3}}}}\n", "row 'a' sets seed, which the experiments set themselves"),
        (f"{BASE}rows: {{a: {{skip: no}}, b: {{published: x}}}}\n", "published is 'x'"),
        (f"{BASE}rows: {{a: {{skip: why}}}}\n", "the first row, which all others are compared with, is skipped"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_experiments(write(tmp_path, text))


def leave_run(folder, right, f1=0.5, seconds=2.0):
    folder.mkdir(parents=True)
    answers = pd.DataFrame({"label": ["a"] * len(right), "prediction": np.where(right, "a", "NA")})
    answers.to_csv(folder / "test_predictions.csv", index=False)
    (folder / "run_state.json").write_text(
        json.dumps({"finished": True, "processes": 1, "config": {"output_dir": str(folder)}})
    )
    (folder / "test_results.json").write_text(json.dumps({"test_macro_f1": f1}))
    (folder / "train_results.json").write_text(json.dumps({"train_runtime": seconds, "trainable_parameters": 7}))


def test_rows_are_summed_up_over_their_seeds(tmp_path):
    table = load_experiments(
        write(tmp_path, f"{BASE}seeds: [1, 2]\nrows: {{a: {{published: 90}}, b: , c: {{skip: why}}, d: }}\n")
    )
    rng = np.random.default_rng(0)
    right = {(row, seed): rng.random(50) < share for row, share in (("a", 0.9), ("b", 0.6)) for seed in (1, 2)}
    for (row, seed), answers in right.items():
        leave_run(tmp_path / row / f"seed-{seed}", answers, f1=seed / 10, seconds=seed)
    found = summarize(table, tmp_path, {"d": "it broke"})
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
    shown = describe(found)
    assert "not run: c: why" in shown
    assert "not run: d: it broke" in shown
    assert "nan" not in shown.lower()


@pytest.mark.launch
def test_a_table_runs_goes_on_and_names_what_is_wrong(tmp_path):
    """Two rows and one that has no weights here; then a third one, for which the others are not run again."""
    make_texts(80, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    rows = "  plain:\n  first token: {pooling: first}\n  larger: {model_name_or_path: nowhere/gpt2-large}\n"
    path = write(tmp_path, f"base: {ROOT}/recipe/configs/quickstart.yaml\nseeds: [1]\nrows:\n{rows}")
    fields = [
        "--model_name_or_path",
        tiny_folder(),
        "--train_file",
        tmp_path / "my.csv",
        "--column_names",
        "text",
        "label",
    ]
    command = ["python", "scripts/experiments.py", "--config", path, "--output_dir", tmp_path / "out", *fields, *FAST]
    assert_refused(run(*command, "--learning_rat", "1"), "row 'plain': the command line: unknown field 'learning_rat'")
    assert not (tmp_path / "out").exists()
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert "not run: larger: model 'nowhere/gpt2-large'" in result.stdout
    state = tmp_path / "out" / "plain" / "seed-1" / "run_state.json"
    before, figures = state.stat().st_mtime_ns, json.loads((tmp_path / "out" / "experiments.json").read_text())
    accuracy = json.loads((state.parent / "test_results.json").read_text())["test_accuracy"]
    assert figures["rows"][0]["accuracy"] == pytest.approx(100 * accuracy)
    assert (tmp_path / "out" / "experiments.png").stat().st_size > 5000
    assert_refused(run(*command, "--jobs", "0"), "jobs is 0: take a whole number from 1 up to 64")
    write(
        tmp_path,
        f"base: {ROOT}/recipe/configs/quickstart.yaml\nseeds: [1]\nrows:\n{rows}  broken: {{split_seed: 7, max_train_samples: 1}}\n",
    )
    assert_refused(run(*command), "1 rows failed (broken)")
    assert state.stat().st_mtime_ns == before
    assert len((tmp_path / "out" / "experiments.csv").read_text().splitlines()) == 5


@pytest.mark.launch
def test_stopped_rows_save_first_and_go_on_later(tmp_path):
    """Two at a time: SIGTERM reaches both, which leave checkpoints; the same command then ends as one that went through."""
    make_texts(80, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    path = write(tmp_path, f"base: {ROOT}/recipe/configs/quickstart.yaml\nseeds: [1, 2]\nrows: {{plain: }}\n")
    fields = [
        *fields_of(tiny_folder(), tmp_path / "my.csv", tmp_path / "out"),
        *FAST,
        "--column_names",
        "text",
        "label",
    ]
    fields += ["--num_train_epochs", "200", "--eval_strategy", "no", "--load_best_model_at_end", "false"]
    fields += ["--save_strategy", "steps", "--save_steps", "20"]
    command = ["python", "scripts/experiments.py", "--config", path, "--jobs", "2", *fields]
    runs = [tmp_path / "out" / "plain" / f"seed-{seed}" for seed in (1, 2)]
    stopped = subprocess.Popen([sys.executable, *map(str, command[1:])], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not all([*run.glob("checkpoint-*/complete.json")] for run in runs):
        assert stopped.poll() is None, stopped.stderr.read()
        time.sleep(0.1)
    stopped.terminate()
    assert stopped.wait(60) == 143, stopped.stderr.read()
    assert not any((run / "model.safetensors").exists() for run in runs)
    assert not (tmp_path / "out" / "experiments.csv").exists()
    result = run(*command)
    assert result.returncode == 0, result.stderr
    assert all("which resumes from" in run.with_name(f"{run.name}.log").read_text() for run in runs)
    assert json.loads((tmp_path / "out" / "experiments.json").read_text())["rows"][0]["seeds"] == 2

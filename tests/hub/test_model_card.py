"""The model card of a run, read as the Hub reads it: by huggingface_hub, and by a Markdown renderer."""

import itertools
import json
import re

import numpy as np
import pytest
from conftest import run_training
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from sklearn.metrics import classification_report

from recipe.data.dataset import load_saved_splits
from recipe.data.tokenization import Coverage
from recipe.evaluation.report import Measurement
from recipe.hub.model_card import BEGIN, END, write_model_card

SMALL = ["--max_train_samples", "30", "--max_eval_samples", "15", "--max_predict_samples", "15"]


def read(path):
    return json.loads(path.read_text())


def cells(markdown):
    """The text of each table cell, row by row."""
    tokens, rows = MarkdownIt("commonmark").enable("table").parse(markdown), []
    for token, inner in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            rows[-1].append("".join(child.content for child in inner.children))
    return rows


@pytest.fixture
def run_snippet(monkeypatch, capsys):
    """A card's Python code as it stands, run in the model's folder; returns what it prints."""

    def run(code, folder):
        monkeypatch.chdir(folder)
        capsys.readouterr()
        exec(compile(code, "README.md", "exec"), {})
        return capsys.readouterr().out

    return run


def test_the_snippet_runs_as_it_stands(trained, run_snippet):
    code = re.search("```python\n(.*?)```", (trained / "README.md").read_text(), re.DOTALL)[1]
    assert "recipe" not in code
    (answer,) = eval(run_snippet(code, trained))
    assert answer["label"] in ("sport", "medicine", "technology")


def test_metadata_holds_the_figures_of_the_test(trained):
    card, figures = ModelCard.load(trained / "README.md"), read(trained / "test_results.json")
    assert card.data.pipeline_tag == "text-classification"
    assert card.data.library_name == "transformers"
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    wanted = {"accuracy": "test_accuracy", "f1": "test_macro_f1", "loss": "test_loss"}
    assert values == {kind: pytest.approx(figures[name], abs=1e-6) for kind, name in wanted.items()}
    assert "license" not in card.data.to_dict()


def test_tables_are_scikit_learns_and_the_runs(trained):
    card, figures = (trained / "README.md").read_text(), read(trained / "test_results.json")
    rows = {row[0]: row[1:] for row in cells(card)}
    low, high = figures["test_accuracy_low"], figures["test_accuracy_high"]
    assert rows["gpt2-nano"][:2] == [f"{figures['test_accuracy']:.3f}", f"{low:.3f} - {high:.3f}"]
    summary = read(trained / "data_summary.json")
    assert rows["train"] == ["210", "70", "70", "70"]
    assert rows["test"] == [str(summary["texts"]["test"]), "20", "20", "20"]
    assert rows["learning_rate"] == [str(float(rows["learning_rate"][0]))]
    assert "198,915 of 3,494,019 parameters were trained (`last_blocks:1`)" in card


def test_no_text_and_no_path_is_in_it(trained):
    card = (trained / "README.md").read_text()
    assert not [text for split in load_saved_splits(trained).values() for text in split["text"] if text in card]
    assert str(trained.parent) not in card
    assert str(read(trained / "run_state.json")["config"]["train_file"][0]) not in card
    assert "gpt2-nano, a GPT-2 of 12 blocks" in card


def test_pictures_are_named_and_exist(trained):
    paths = re.findall(r"!\[.+\]\((.+)\)", (trained / "README.md").read_text())
    assert paths == [f"figures/{name}.png" for name in ("reliability", "length", "training")]
    assert all((trained / path).stat().st_size > 5000 for path in paths)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        (
            ["--pooling", "mean"],
            ["from recipe import GPT2LastTokenClassifier", "no stock `GPT2ForSequenceClassification`"],
        ),
        (["--window", "8"], ["from recipe import TextClassifier", "windows of 8 tokens"]),
    ],
)
def test_snippets_of_other_models_run_too(texts_file, tmp_path, run_snippet, fields, wanted):
    run_training(texts_file, tmp_path / "x", *SMALL, *fields)
    card = (tmp_path / "x" / "README.md").read_text()
    assert [words for words in wanted if words not in card] == []
    code = re.search("```python\n(.*?)```", card, re.DOTALL)[1]
    assert re.search("medicine|sport|technology", run_snippet(code, tmp_path / "x"))


# ---- A second run ----


@pytest.fixture
def folder(finished, tmp_path):
    """A finished run with its card."""
    for name in ("config.json", "tokenizer_config.json", "train_results.json", "data_summary.json", "README.md"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    return tmp_path


def test_what_users_write_around_the_runs_part_stays(folder):
    card = folder / "README.md"
    text = card.read_text().replace("---\nlibrary_name", "---\nlicense: mit\nwidget:\n- text: hello\nlibrary_name")
    text = text.replace(BEGIN.partition("{")[0], "My own words.\n\n" + BEGIN.partition("{")[0]) + "\nMore of mine.\n"
    text = text.replace("tags:\n", "tags:\n- mine\n")
    card.write_text(text)
    write_model_card(folder, measured_of(["a|b", "c"]))
    new = card.read_text()
    assert "My own words." in new
    assert new.endswith("More of mine.\n")
    assert "On 40 test texts" in new
    assert new.count(END) == 1
    data = ModelCard(new).data.to_dict()
    assert (data["license"], data["widget"]) == ("mit", [{"text": "hello"}])
    assert data["tags"] == ["mine", "gpt2", "text-classification"]
    assert not (folder / "README.new.md").exists()


def test_a_card_that_is_the_users_own_gets_the_runs_part_below(folder):
    (folder / "README.md").write_text("# About us\n")
    write_model_card(folder)
    new = (folder / "README.md").read_text()
    assert new.index("# About us") < new.index("Not measured on test texts.")


def test_a_new_card_that_somebody_merges_is_refused_until_it_is(folder):
    (folder / "README.md").write_text((folder / "README.md").read_text().replace("## Limits", "## Ours"))
    write_model_card(folder)
    (folder / "README.md").unlink()
    write_model_card(folder)
    assert not (folder / "README.new.md").exists()


def test_hand_written_fields_stay_where_the_run_knows_nothing_of_them(folder):
    (folder / "README.md").write_text(
        "\ufeff---\nbase_model: me/mine\ndatasets: [me/texts]\nlicense: mit\n---\n# Mine\n"
    )
    write_model_card(folder)
    data = ModelCard.load(folder / "README.md").data.to_dict()
    assert (data["base_model"], data["datasets"], data["license"]) == ("me/mine", ["me/texts"], "mit")
    assert (folder / "README.md").read_text().count("---\n") == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [("## Limits", "## Limits of ours"), ("library_name:", "]["), (END, "")],
)
def test_a_card_whose_run_part_was_edited_stays(folder, caplog, old, new):
    edited = (folder / "README.md").read_text().replace(old, new)
    (folder / "README.md").write_text(edited)
    assert write_model_card(folder).name == "README.new.md"
    assert (folder / "README.md").read_text() == edited
    assert "stays as it is" in caplog.text


# ---- What labels may be called ----


def measured_of(names, **settings):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, len(names), 40), rng.normal(size=(40, len(names)))
    return Measurement(names, labels, logits, coverage=Coverage([5] * 39 + [600], 256), **settings)


def card_of(folder, measured=None, config=None, options=None, **files):
    """The card of a folder whose files are changed."""
    import yaml

    for name, fields in {"config": config or {}, **files}.items():
        path = folder / f"{name}.json"
        content = read(path) if path.exists() else {}
        path.write_text(json.dumps({**content, **fields}))
    (folder / "run_config.yaml").write_text(yaml.safe_dump(options or {}))
    write_model_card(folder, measured)
    return (folder / "README.md").read_text()


PAIR = {"text_pair_column": "b", "text_pair_separator": "\n||"}


@pytest.mark.parametrize(
    ("config", "options", "files", "wanted", "unwanted"),
    [
        ({"decision_threshold": 0.3}, {}, {}, "technology is given where its probability is at least\n0.3", "windows"),
        ({"window": 8, "window_max_length": 20}, {}, {"tokenizer_config": {"truncation_side": "left"}},
         "windows of 8 tokens, of its last 20 tokens", "the first"),
        ({"window": 8, "window_max_length": None}, {}, {}, "windows of 8 tokens, whose", "lose their end"),
        ({}, {}, {"tokenizer_config": {"truncation_side": "left"}}, "lose their beginning", "lose their end"),
        ({"model_type": "gpt2_last_token_classifier", "pooling": "mean"}, {}, {}, "on its tokens' mean", "on its last token"),
        ({"architectures": ["Mine"]}, {}, {}, "a head of its own", "a linear head"),
        ({}, PAIR, {}, 'give them to `pipeline` as `{"text": ..., "text_pair": ...}`', "windows"),
        ({}, {"remove_duplicates": True}, {}, "of which none is a training text", "which training did not see"),
        ({}, {"remove_duplicates": False}, {}, "On 40 test texts, measured", "of which none"),
        ({}, {"max_steps": 5, "num_train_epochs": 5.0, "seed": 0, "weight_decay": 0.0}, {}, "| seed | `0` |", "num_train_epochs"),
        ({}, {"learning_rate": 1e-3}, {"run_state": {"processes": 2}}, "| processes | `2` |", "None"),
        ({}, {"dataset_name": "me/texts"}, {}, "type: custom", "type: me/texts"),
        ({}, {"dataset_name": "me/texts"}, {"data_summary": {"rows_read": {"train": {}, "test": {}}}}, "type: me/texts", "custom"),
        ({}, {"model_name_or_path": "/home/me/secret"}, {}, "a GPT-2 of 4 blocks, 32 wide", "secret"),
        ({}, {"model_name_or_path": "openai-community/gpt2"}, {}, "base_model: openai-community/gpt2", "32 wide"),
    ],
)  # fmt: skip
def test_the_card_is_true_of_each_kind_of_model(folder, config, options, files, wanted, unwanted):
    labels = {str(i): name for i, name in enumerate(["sport", "technology"])}
    card = card_of(folder, measured_of(list(labels.values())), {"id2label": labels, **config}, options, **files)
    assert wanted in card
    assert unwanted not in card


def test_figures_of_labels_that_are_called_alike(folder):
    names = ["accuracy", "x" * 60 + "a", "x" * 60 + "b"]
    measured = measured_of(names)
    card = card_of(folder, measured, {"id2label": dict(enumerate(names))})
    rows = cells(card)
    shown = rows[rows.index(["label", "precision", "recall", "F1", "test texts"]) + 1 :][:3]
    report = classification_report(measured.labels, measured.predictions, output_dict=True, zero_division=0)
    assert [row[2] for row in shown] == [f"{report[str(i)]['recall']:.3f}" for i in range(3)]
    assert [row[4] for row in shown] == [f"{report[str(i)]['support']:.0f}" for i in range(3)]


def test_an_old_card_without_a_test_points_to_the_figures(folder):
    assert "Not measured on test texts." in card_of(folder)
    assert "The figures are in `test_results.json`." in card_of(folder, test_results={"test_accuracy": 1})


def test_labels_are_shown_as_they_are(folder):
    names = ["a|b", "<img src=x onerror=alert(1)>", "*`_[x](y)_`*", "line\nbreak", "\x1b[31mred", "$x$ #1 ~~y~~"]
    config = read(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "id2label": dict(enumerate(names))}))
    measured = measured_of(names)
    write_model_card(folder, measured)
    text = (folder / "README.md").read_text()
    rows = cells(text)
    shown = [
        row[0] for row in rows[rows.index(["label", "precision", "recall", "F1", "test texts"]) + 1 :][: len(names)]
    ]
    assert shown[:3] == names[:3]
    assert shown[5] == names[5]
    assert "\x1b" not in text
    assert "<img" not in text
    report = classification_report(measured.labels, measured.predictions, output_dict=True, zero_division=0)
    assert next(row for row in rows if row[0] == "a|b")[1] == f"{report['0']['precision']:.3f}"


def test_many_labels_have_no_matrix_and_limits_name_mistakes(folder):
    names = [f"label {i}" for i in range(30)]
    config = read(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "id2label": dict(enumerate(names))}))
    (folder / "figures").mkdir()
    (folder / "figures" / "confusion_matrix.png").touch()
    write_model_card(folder, measured_of(names, temperature=2.0))
    text = (folder / "README.md").read_text()
    assert "true \\ predicted" not in text
    assert "![Confusion matrix](figures/confusion_matrix.png)" in text
    assert "label 19, ..." in text
    assert re.search(r"Most frequent mistakes on the test: label \d+ taken for label \d+ \(\d\)", text)
    assert "tokens lose their end: 1 of the test's." in text
    assert "divided by a temperature of 2" in text

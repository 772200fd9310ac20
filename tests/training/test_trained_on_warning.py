import logging

import pandas as pd
from conftest import make_texts, run_training

from recipe.config import parse_arguments
from recipe.training.run import train


def test_a_test_on_texts_of_an_earlier_training_is_told(three_labels, tmp_path, caplog):
    run_training(three_labels, tmp_path / "first", "--max_steps", "2")
    assert "trained on" not in caplog.text
    old, new = pd.read_csv(three_labels), make_texts(60, ["sport", "medicine", "technology"], seed=8)
    pd.concat([old, new]).to_csv(tmp_path / "both.csv", index=False)
    fields = ["--model_name_or_path", str(tmp_path / "first"), "--train_file", str(tmp_path / "both.csv")]
    train(*parse_arguments([*fields, "--output_dir", str(tmp_path / "second"), "--max_steps", "2"]))
    (warning,) = [record for record in caplog.records if "were trained on" in record.getMessage()]
    assert warning.levelno == logging.WARNING
    count = int(warning.getMessage().split()[0])
    assert 0 < count <= 36
    assert f"{count} of the 36 test texts" in warning.getMessage()

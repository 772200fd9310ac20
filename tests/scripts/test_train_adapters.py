"""scripts/train.py with LoRA adapters: what trains, what is saved, and a run that resumes."""

import json

import pytest
import torch
from conftest import run_training, tiny_folder
from datasets import load_dataset
from safetensors.torch import load_file
from sklearn.metrics import log_loss
from transformers import AutoModelForSequenceClassification, AutoTokenizer


@pytest.mark.parametrize("trainable", ["last_blocks:1", "all"])
def test_adapters_are_merged_into_a_stock_model(three_labels, tmp_path, trainable):
    """Calibrated too, which changes the head; figures and the saved model agree, by transformers."""
    fields = ("--lora_r", "4", "--trainable", trainable, "--calibrate", "true")
    results = run_training(three_labels, tmp_path / "run", *fields)
    train, test = (json.loads((tmp_path / "run" / f"{part}_results.json").read_text()) for part in ("train", "test"))
    before, after = load_file(tiny_folder() / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    changed = {name for name, tensor in before.items() if not torch.equal(tensor.float(), after[f"transformer.{name}"])}
    blocks = range(4) if trainable == "all" else [3]
    matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert changed - {"ln_f.bias"} == {f"h.{block}.{name}.weight" for block in blocks for name in matrices}
    sizes = sum(sum(before[f"h.3.{name}.weight"].shape) for name in matrices)
    assert train["trainable_parameters"] == 4 * sizes * len(blocks) + 3 * (32 + 1)
    rows = load_dataset("parquet", data_files=str(tmp_path / "run" / "splits" / "test.parquet"), split="train")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    with torch.no_grad():
        batch = AutoTokenizer.from_pretrained(tmp_path / "run")(list(rows["text"]), padding=True, return_tensors="pt")
        probabilities = model(**batch).logits.softmax(-1).numpy()
    assert test["test_loss"] == results["test_loss"] == pytest.approx(log_loss(rows["label"], probabilities), abs=1e-4)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "; LoRA adapters in place of matrices, and the head" in card
    assert "| lora_r | `4` |" in card

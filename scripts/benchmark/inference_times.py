"""How many texts a second our engine, pipeline() and the exported model classify."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Setup, device_of, our_model, seconds_of, set_up
from transformers import pipeline

from recipe.inference.onnx_export import OnnxModel, export_graph, quantize_int8
from recipe.inference.text_classifier import TextClassifier
from recipe.model.export import to_stock


def measure_inference(job: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Measure our engine, pipeline() and, on the CPU, the exported model in our engine, in turn, on the same texts.

    Each gets as many threads as torch has, and classifies one batch before the clock runs. Returns texts a second, and how
    many times those of pipeline() they are.
    """
    device, timings = device_of(job), {}
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(job, f"{folder}/out")
        texts = list(setup.splits["train"]["text"])[: job["texts"]]
        engines = load_engines(job, setup, folder)
        for classify in engines.values():
            classify(texts[: job["batch_size"]])
        for _ in range(job["repeats"]):
            for name, classify in engines.items():
                seconds = seconds_of(lambda classify=classify: classify(texts), device)
                timings.setdefault(name, []).append(seconds)
    ratios = {name: np.divide(timings["pipeline"], seconds) for name, seconds in timings.items()}
    return {
        name: {"texts_s": len(texts) / statistics.median(seconds), "ratio": float(np.median(ratios[name]))}
        for name, seconds in timings.items()
    }


def load_engines(job: dict[str, Any], setup: Setup, folder: str) -> dict[str, Callable[[list[str]], Any]]:
    """Return by name what classifies a list of texts; the models go into the folder."""
    device = device_of(job)
    to_stock(our_model(setup)).save_pretrained(f"{folder}/model")
    setup.tokenizer.save_pretrained(f"{folder}/model")
    classifier = TextClassifier.from_pretrained(f"{folder}/model", str(device))
    pipe = pipeline("text-classification", f"{folder}/model", device=device)
    engines = {
        "engine": classifier.logits,
        "pipeline": lambda texts: pipe(texts, truncation=True, batch_size=job["batch_size"]),
    }
    if device.type == "cpu":
        paths = {name: Path(folder, f"{name}.onnx") for name in ("onnx", "onnx_int8")}
        export_graph(classifier.model, setup.tokenizer.eos_token_id, paths["onnx"])
        quantize_int8(*paths.values())
        for name, path in paths.items():
            exported = OnnxModel(path, classifier.model.config)
            engines[name] = TextClassifier(exported, setup.tokenizer, "cpu").logits
    return engines

"""ONNX export: a folder that onnxruntime and tokenizers classify with, without torch; checked before it is in its place."""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from tqdm.auto import tqdm
from transformers import GPT2Config, PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from recipe.atomic import write_files, write_json
from recipe.data.tokenization import split_parts
from recipe.errors import RecipeError, as_recipe_error
from recipe.inference.text_classifier import TextClassifier
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import save_tokenizer

MODEL_FILE = "model.onnx"
CHECK_TEXTS, CHECK_TOKENS = 200, 20_000  # tokens: half a minute at GPT-2 small's shape on two cores
CHECK_BATCH = 8
TOLERANCE = 1e-4  # of a logit
ODD_TEXTS = ["", " ", "<|endoftext|>", "a <|endoftext|>\n b", "🎉 naïve 中文 مرحبا \0", "word " * 3000]


def require_onnx() -> None:
    """Raise RecipeError if a package of the extra `onnx` is not installed."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(f"the export needs {', '.join(missing)}: pip install 'gpt2-classifier-recipe[onnx]'")


class ExportableClassifier(nn.Module):
    """The classifier in operations that ONNX has, for batches of any size and any length, 0 included."""

    def __init__(self, model: GPT2LastTokenClassifier, empty_id: int):
        super().__init__()
        self.model, self.empty_id = model, empty_id  # a text without a token is this one

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 [B, num_labels], of int64 [B, T] and [B, T]; padding may stand anywhere."""
        mask, width = attention_mask.ne(0), input_ids.shape[1]
        lengths = mask.sum(dim=1).clamp(min=1)
        # Token i of a text goes to column i, padding to the last column, of two more than the batch has.
        columns = torch.where(mask, mask.long().cumsum(dim=1) - 1, width + 1)
        aligned = input_ids.new_full((input_ids.shape[0], width + 2), self.empty_id).scatter(1, columns, input_ids)
        # Cut to the longest text, so padding that no text needs costs nothing; and to 2 columns or more, since
        # torch.export has to know that a length which depends on the data is not 1, for which sdpa has a branch.
        longest = lengths.max().clamp(min=2).item()
        torch._check(longest >= 2)
        torch._check(longest <= width + 2)
        embeddings = self.model.transformer
        positions = torch.arange(longest, device=input_ids.device)
        hidden = embeddings.wte(aligned[:, :longest]) + embeddings.wpe(positions)
        return self.model.tail(hidden, lengths, depth=0)


@torch.no_grad()
def export_graph(model: GPT2LastTokenClassifier, empty_id: int, path: Path) -> None:
    """Write the model, on the CPU and in eval mode, as ONNX; weights over 2 GB, which no such file holds, go to `PATH.data`.

    Args:
        empty_id: the token that an empty text is.
    """
    input_ids = torch.full((2, 3), empty_id)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    problem = f"{type(model).__name__} cannot be exported by torch {torch.__version__}"
    # The exporter raises whatever it meets.
    with quiet(), as_recipe_error(Exception, problem, "take a newer torch and onnxscript"):
        program = torch.onnx.export(
            ExportableClassifier(model, empty_id).eval(),
            (input_ids, torch.ones_like(input_ids)),
            dynamo=True,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            dynamic_shapes=(sizes, sizes),
            verbose=False,
        )
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass

        ClearMetadataAndDocStringPass()(program.model)  # each operation's stack trace, with this machine's paths
    program.save(path)


def quantize_int8(source: Path, target: Path) -> None:
    """Write a graph with the weights of embeddings and linear layers in 8 bits, a scale for each output of a layer.

    What flows between the layers is rounded to 8 bits as it comes, with one scale a batch, so the answer to a text
    depends a little on the texts beside it. Where a CPU has no VNNI instructions, sums of 8-bit products can overflow
    their 16 bits, and accuracy be less than measured here.
    """
    with quiet():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # Gemm, which torch.onnx makes of GPT-2's layers, becomes MatMul on the way, and that is quantized.
        with as_recipe_error(Exception, "onnxruntime cannot quantize the model", "leave --quantize out"):
            quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


class OnnxModel(nn.Module):
    """An exported graph in onnxruntime, called as the model is: TextClassifier takes it in the model's place."""

    def __init__(self, path: Path, config: GPT2Config):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # errors are raised; there is no need to print them too
        self.config = config
        with as_recipe_error(Exception, f"{path}: onnxruntime cannot load it", "take a newer onnxruntime"):
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SequenceClassifierOutput:
        """Return logits, float32 [B, num_labels], of int64 [B, T] and [B, T]."""
        inputs = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        return SequenceClassifierOutput(logits=torch.from_numpy(self.session.run(["logits"], inputs)[0]))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log lines of the exporter and the quantizer, which are for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_folder(
    model_dir: str,
    classifier: TextClassifier,
    texts: Sequence[str] | None,
    folder: Path,
    int8: bool = False,
    measure: Callable[[Path, Path], None] | None = None,
) -> None:
    """Write model.onnx, tokenizer.json, tokenizer_config.json and config.json, all of them or none.

    Args:
        classifier: loaded from model_dir, on the CPU.
        texts: to check with; None takes random tokens.
        int8: quantize the model, once its float32 form has been checked.
        measure: called with the paths of the float32 and the int8 model before they are moved.

    Raises:
        RecipeError: the model cannot be exported, or its export answers differently.
    """

    def write(temporary: Path) -> None:
        # As the run saved it, with its threshold and windows; the labels too where they are the default's.
        fields, _ = PreTrainedConfig.get_config_dict(model_dir)
        fields["id2label"] = dict(enumerate(classifier.label_names))
        write_json(temporary / "config.json", {name: fields[name] for name in fields if not name.startswith("_")})
        save_tokenizer(classifier.tokenizer, temporary)
        save_standalone(classifier, temporary / "tokenizer.json")
        check_tokenizer(classifier, temporary / "tokenizer.json", [*ODD_TEXTS, *(texts or [])])
        with TemporaryDirectory(dir=temporary) as work:
            path = (Path(work) if int8 else temporary) / MODEL_FILE
            print("Exporting ...", flush=True)
            export_graph(classifier.model, classifier.tokenizer.eos_token_id, path)
            rows = rows_to_check(classifier, texts)
            difference = check_graph(classifier, path, rows)
            print(
                f"Checked on {len(rows)} texts, padded left, right and not: logits differ by {difference:.1e} at most"
            )
            if int8:
                quantize_int8(path, temporary / MODEL_FILE)
                if measure:
                    measure(path, temporary / MODEL_FILE)

    write_files(folder, write)


def save_standalone(classifier: TextClassifier, path: Path) -> None:
    """Write a tokenizer.json that gives in `tokenizers` alone what our tokenizer gives, in batches padded on the right.

    Long texts are truncated, or cut into windows, of which the first is the encoding and the others its `overflowing`.
    An empty text is padding alone, which the exported graph reads as `<|endoftext|>`.
    """
    tokenizer, windows = classifier.tokenizer, classifier.windows
    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    # `split_special_tokens` is no field of the file: what a text must not become is left out instead.
    fields["added_tokens"] = [token for token in fields["added_tokens"] if not token["special"]]
    alone = Tokenizer.from_str(json.dumps(fields))
    if windows:
        alone.enable_truncation(windows.size, stride=windows.overlap)
    else:
        alone.enable_truncation(classifier.max_length, direction=tokenizer.truncation_side)
    alone.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    alone.save(str(path))


def check_tokenizer(classifier: TextClassifier, path: Path, texts: Sequence[str]) -> None:
    """Raise RecipeError where the saved tokenizer.json gives other tokens or windows than the classifier's tokenizer."""
    alone, windows = Tokenizer.from_file(str(path)), classifier.windows
    alone.no_padding()
    for text, ids in zip(texts, classifier.encode(texts)[0], strict=True):
        encoding = alone.encode(*split_parts(classifier.tokenizer, text))
        found = [part.ids or [classifier.tokenizer.eos_token_id] for part in (encoding, *encoding.overflowing)]
        if found[: None if windows else 1] != (windows.cut(ids) if windows else [ids]):
            raise RecipeError(
                f"the tokenizer cannot be exported: alone, it gives other tokens for the text {text[:40]!r}"
                + (": it cannot cut windows from a part of a text" if windows and windows.max_length else "")
            )


def rows_to_check(classifier: TextClassifier, texts: Sequence[str] | None) -> list[list[int]]:
    """Return token ids of up to CHECK_TEXTS texts, or as many random ones: one of one token and one of all positions first."""
    positions, rng = classifier.model.config.n_positions, np.random.default_rng(0)
    lengths = [1, positions]
    if texts is None:
        lengths += rng.integers(1, min(positions, 128), CHECK_TEXTS - 2, endpoint=True).tolist()
    rows = [rng.integers(len(classifier.tokenizer), size=length).tolist() for length in lengths]
    for ids in classifier.encode((texts or [])[: CHECK_TEXTS - 2])[0]:
        rows.append(classifier.windows.cut(ids)[0] if classifier.windows else ids)
    within = np.cumsum([len(row) for row in rows]) <= CHECK_TOKENS
    return rows[: within.sum()]


@torch.inference_mode()
def check_graph(classifier: TextClassifier, path: Path, rows: list[list[int]]) -> float:
    """Return the largest difference of a logit between the graph and the model; refuse one over TOLERANCE, or another label."""
    model, graph, largest = classifier.model, OnnxModel(path, classifier.model.config), 0.0
    for start in tqdm(range(0, len(rows), CHECK_BATCH), desc="Checking", unit=" batches", leave=False):
        part = rows[start : start + CHECK_BATCH]
        batch = classifier.collate([{"input_ids": row} for row in part])
        padded_left = {  # each row turned by its padding
            name: torch.stack([row.roll(row.shape[0] - len(ids)) for row, ids in zip(tensor, part, strict=True)])
            for name, tensor in batch.items()
        }
        alone = classifier.collate([{"input_ids": part[0]}])
        expected = model(**batch).logits
        with as_recipe_error(Exception, f"{path.name}: onnxruntime cannot run it", "take a newer onnxruntime"):
            found = [graph(**inputs).logits for inputs in (batch, padded_left, alone)]
        for logits in found:
            wanted = expected[: logits.shape[0]]
            difference = (logits - wanted).abs().max().item()
            if not (difference <= TOLERANCE and torch.equal(logits.argmax(dim=-1), wanted.argmax(dim=-1))):
                raise RecipeError(
                    f"the exported model answers differently, by {difference:.1e} of a logit: nothing is saved;"
                    " take another torch or onnxruntime"
                )
            largest = max(largest, difference)
    return largest

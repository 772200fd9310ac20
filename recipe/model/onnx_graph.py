"""The ONNX graph of a classifier: exported by torch.onnx, quantized to int8, and run by onnxruntime in the model's place."""

import importlib.util
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from transformers import GPT2Config
from transformers.modeling_outputs import SequenceClassifierOutput

from recipe.errors import RecipeError, as_recipe_error
from recipe.model.classifier import GPT2LastTokenClassifier

NEEDED = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise RecipeError if a package of the extra `onnx` is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
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
    """Write the model as ONNX; weights over 2 GB, more than such a file can hold, go to `PATH.data` beside it.

    Args:
        model: on the CPU, in eval mode.
        empty_id: the token that an empty text is.

    Raises:
        RecipeError: torch.onnx cannot export it.
    """
    input_ids = torch.tensor([[empty_id] * 3] * 2)
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    problem = f"{type(model).__name__} cannot be exported by torch {torch.__version__}"
    with (
        quiet(),
        as_recipe_error(Exception, problem, "take a newer torch and onnxscript"),
    ):  # it raises whatever it meets
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

"""The trunk on its own: what its output depends on, and its pass over texts in batches of similar lengths."""

import ctypes
import json
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import transformers
import xxhash
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence

from recipe.data.tokenization import batch_tokens, batches_by_length
from recipe.errors import RecipeError
from recipe.model.classifier import GPT2Block, GPT2LastTokenClassifier

FORMAT = 3  # of the cached rows; a change makes old ones unknown
SETTINGS = (
    "n_head",
    "layer_norm_epsilon",
    "activation_function",
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
)
KNOWN_CODE = ("torch.nn.modules.", "transformers.")  # whose modules depend on their parameters and the config alone


def classifier_of(model: nn.Module) -> GPT2LastTokenClassifier:
    """Return the classifier inside peft's wrapper, or the model itself; raise RecipeError for another class."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(model, GPT2LastTokenClassifier):
        name = type(model).__name__
        raise RecipeError(f"the model is {name}, not GPT2LastTokenClassifier: use transformers' Trainer")
    return model


def trunk_modules(model: GPT2LastTokenClassifier) -> list[nn.Module]:
    """Return the modules of the trunk, embeddings first."""
    return [model.transformer.wte, model.transformer.wpe, *model.transformer.h[: model.split_depth]]


def why_not_constant(model: GPT2LastTokenClassifier) -> str | None:
    """Return why the trunk's output does not follow from its parameters and the text alone; None if it does.

    Code of others (adapters, a block or a `trunk` of one's own, hooks) has settings that no hash here knows.
    """
    if model.split_depth == 0:
        return "no trunk is frozen"
    if type(model).trunk is not GPT2LastTokenClassifier.trunk or "trunk" in vars(model):
        return f"{type(model).__name__} has a trunk of its own"
    for part in trunk_modules(model):
        if any(isinstance(parameter, DTensor) for parameter in part.parameters()):
            return "FSDP has divided the model already"
        for module in part.modules():
            known = type(module) is GPT2Block or type(module).__module__.startswith(KNOWN_CODE)
            if not known or "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
                return f"a frozen block holds {type(module).__name__} with code or hooks of its own"
    return None


def trunk_key(model: GPT2LastTokenClassifier) -> str:
    """Return a hash of the function that the trunk is: its parameters, depth and settings, and which tokens are kept."""
    kept = model.pooling if model.keeps_one_token else "all"
    about = [FORMAT, model.split_depth, kept, {name: getattr(model.config, name) for name in SETTINGS}]
    digest = xxhash.xxh3_128(json.dumps(about, sort_keys=True).encode())
    hash_parameters(digest, [pair for module in trunk_modules(model) for pair in module.named_parameters()])
    return digest.hexdigest()


def folder_name(trunk_key: str, dtype: torch.dtype, device: torch.device) -> str:
    """Return a hash of the trunk and of all else that the last bits of its output depend on."""
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    where = [str(dtype), device.type, backend.matmul.fp32_precision, torch.__version__, transformers.__version__]
    return xxhash.xxh3_128_hexdigest(json.dumps([trunk_key, *where]).encode())


def hash_parameters(digest: xxhash.xxh3_128, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
    """Add names, shapes and values of parameters to a hash."""
    for name, parameter in parameters:
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())


@torch.no_grad()
def run_trunk(
    model: GPT2LastTokenClassifier, sequences: Sequence[np.ndarray], device: torch.device
) -> Iterator[tuple[torch.Tensor, list[int]]]:
    """Yield hidden states, [rows, n_embd] on the CPU, and how many rows each text has of them, in the texts' order.

    The model is one of `in_dtype`; the texts come as token ids, int32 [T], the longest first.
    """
    keeps_one_token = model.keeps_one_token
    for batch in batches_by_length([len(ids) for ids in sequences], batch_tokens(device)):
        ids = [torch.from_numpy(sequences[i].astype(np.int64)) for i in batch]
        lengths = torch.tensor([len(text) for text in ids])
        states = model.trunk(pad_sequence(ids, batch_first=True).to(device))
        places = torch.arange(states.shape[1])[None]
        kept = places < lengths[:, None]
        if keeps_one_token:
            kept &= places == (0 if model.pooling == "first" else lengths[:, None] - 1)
        yield states[kept].cpu(), kept.sum(dim=1).tolist()


def in_dtype(model: GPT2LastTokenClassifier, dtype: torch.dtype) -> GPT2LastTokenClassifier:
    """Return a model in eval mode that shares the trunk's parameters, or has them in another dtype; its tail is not to be used."""
    depth = model.split_depth
    with torch.device("meta"):
        twin = GPT2LastTokenClassifier(model.config).requires_grad_(False)
    twin.transformer.h[depth:].requires_grad_(True)  # where the trunk ends
    trunk = ("transformer.wte.", "transformer.wpe.", *(f"transformer.h.{i}." for i in range(depth)))
    state = {name: value.detach().to(dtype) for name, value in model.state_dict().items() if name.startswith(trunk)}
    twin.load_state_dict(state, strict=False, assign=True)
    return twin.eval()


def dtype_of(choice: str, device: torch.device) -> torch.dtype:
    """Return the trunk's dtype: where bfloat16 is emulated it would be slower than float32."""
    if choice == "auto":
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    return getattr(torch, choice)


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether the device has bfloat16 instructions."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def keep_freed_memory() -> None:
    """Have glibc keep the blocks that each step's gradients free, instead of handing them back to the kernel.

    Else each step on a CPU faults its gradients' pages in again (28 MB at GPT-2 small's shape, a quarter of the step).
    Does nothing where the C library is another one.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its largest value
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD

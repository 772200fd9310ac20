"""The trunk's pass over texts: batches of similar lengths, in the dtype of the cache."""

from collections.abc import Iterable, Sequence

import torch
import xxhash
from torch.nn.utils.rnn import pad_sequence

from recipe.data.tokenization import batch_tokens, batches_by_length
from recipe.model.classifier import GPT2LastTokenClassifier


def in_dtype(model: GPT2LastTokenClassifier, dtype: torch.dtype) -> GPT2LastTokenClassifier:
    """Return the model itself, or a copy whose trunk is in another dtype (the tail's weights are never used)."""
    if dtype == model.dtype:
        return model
    depth = model.split_depth
    with torch.device("meta"):
        copy = GPT2LastTokenClassifier(model.config).requires_grad_(False)
    copy.transformer.h[depth:].requires_grad_(True)  # where the trunk ends
    trunk = ("transformer.wte.", "transformer.wpe.", *(f"transformer.h.{i}." for i in range(depth)))
    state = {name: value.detach().to(dtype) for name, value in model.state_dict().items() if name.startswith(trunk)}
    copy.load_state_dict(state, strict=False, assign=True)
    return copy


@torch.no_grad()
def run_trunk(trunk: GPT2LastTokenClassifier, sequences: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Return [T, n_embd] of each sequence on the CPU, in their order; [1, n_embd] where the head reads one token alone."""
    hidden: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    device = trunk.transformer.wte.weight.device
    for indices in batches_by_length([len(ids) for ids in sequences], batch_tokens(device)):
        batch = [torch.as_tensor(sequences[i], dtype=torch.long) for i in indices]
        states = trunk.trunk(pad_sequence(batch, batch_first=True).to(device)).cpu()
        for i, ids, row in zip(indices, batch, states, strict=True):
            kept = row[: len(ids)]
            if trunk.keeps_one_token:
                kept = kept[-1:] if trunk.pooling == "last" else kept[:1]
            hidden[i] = kept
    return hidden


def as_bytes(states: torch.Tensor) -> bytes:
    """Return a tensor's bytes; numpy, and so Arrow, has no bfloat16, so they pass as integers."""
    return states.contiguous().view(torch.uint8).numpy().tobytes()


def hash_parameters(digest: xxhash.xxh3_128, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
    """Add names, shapes and values of parameters to a hash."""
    for name, parameter in parameters:
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
        digest.update(as_bytes(parameter.detach().cpu()))

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
def run_trunk(
    trunk: GPT2LastTokenClassifier,
    sequences: Sequence[Sequence[int]],
    depth: int = 0,
    known: Sequence[torch.Tensor | None] | None = None,
) -> list[torch.Tensor]:
    """Return [T, n_embd] of each sequence on the CPU, in their order; [1, n_embd] where the head reads one token alone.

    Args:
        depth, known: for each sequence its states where block `depth` begins, [T, n_embd], which need not be computed, or
            None. Batches are the same with and without them, and so are the results, to the last bit if `known` came
            from the same batches.
    """
    known = known or [None] * len(sequences)
    hidden: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    for indices in batches_by_length(
        [len(ids) for ids in sequences], batch_tokens(trunk.transformer.wte.weight.device)
    ):
        batch = [torch.as_tensor(sequences[i], dtype=torch.long) for i in indices]
        states = enter_block(trunk, batch, depth, [known[i] for i in indices])
        for block in trunk.transformer.h[depth : trunk.split_depth]:
            states = block(states)
        for i, ids, row in zip(indices, batch, states.cpu(), strict=True):
            kept = row[: len(ids)]
            if trunk.keeps_one_token:
                kept = kept[-1:] if trunk.pooling == "last" else kept[:1]
            hidden[i] = kept
    return hidden


def enter_block(
    trunk: GPT2LastTokenClassifier, batch: Sequence[torch.Tensor], depth: int, known: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Return the states of a batch where block `depth` begins, [B, T, n_embd], padded on the right, on the trunk's device."""
    device, rows = trunk.transformer.wte.weight.device, list(known)
    unknown = [i for i, row in enumerate(rows) if row is None]
    if unknown:
        computed = trunk.trunk(pad_sequence([batch[i] for i in unknown], batch_first=True).to(device), depth)
        if len(unknown) == len(batch):
            return computed
        for i, states in zip(unknown, computed, strict=True):
            rows[i] = states  # with its padding, which no token attends to
    return pad_sequence([row.to(device) for row in rows], batch_first=True)


def as_bytes(states: torch.Tensor) -> bytes:
    """Return a tensor's bytes; numpy, and so Arrow, has no bfloat16, so they pass as integers."""
    return states.contiguous().view(torch.uint8).numpy().tobytes()


def hash_parameters(digest: xxhash.xxh3_128, parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
    """Add names, shapes and values of parameters to a hash."""
    for name, parameter in parameters:
        digest.update(f"{name} {parameter.dtype} {list(parameter.shape)}".encode())
        digest.update(as_bytes(parameter.detach().cpu()))

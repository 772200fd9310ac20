"""The least that our fast path must do on this machine."""

from typing import Any

import torch
from protocol import device_of, our_model, seconds_of, set_up


def measure_floor(job: dict[str, Any]) -> dict[str, float]:
    """Compute the least that our fast path must do, from the matmul rate and memory bandwidth of the job's device.

    Operations: 24 d^2 a token and block in the trunk (attention's own, T d a token, left out). Bytes: a step reads the
    tail's weights forward and backward, writes their gradients and reads them for the norm, and AdamW reads four numbers
    and writes three for each: 11 passes over the tail's parameters. Copies of a text are computed once.
    """
    device, setup = device_of(job), set_up(job, "unused")
    model = our_model(setup)
    width, depth = model.config.n_embd, model.split_depth
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cached = [setup.tokenized["train"], setup.tokenized["validation"]]
    tokens = sum(map(len, {tuple(ids) for split in cached for ids in split["input_ids"]}))
    a, b = torch.randn(4096, width, device=device), torch.randn(width, 4 * width, device=device)
    rate = 2 * 4096 * width * 4 * width / min(seconds_of(lambda: a @ b, device) for _ in range(10))
    source = torch.randn(trainable * 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), device) for _ in range(10))
    trunk = 24 * width**2 * depth * tokens / rate
    epoch = setup.steps_per_epoch * 11 * 4 * trainable / bandwidth
    return {
        "matmul_flops": rate, "bandwidth_bytes": bandwidth,
        "trunk_s": trunk, "epoch_s": epoch, "total_s": trunk + job["epochs"] * epoch,
    }  # fmt: skip

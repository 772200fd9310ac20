"""The token that the head reads: found from the attention mask, pooled, and a block that computes it alone."""

from typing import Any

import torch
from torch import nn
from transformers.models.gpt2 import modeling_gpt2
from transformers.pytorch_utils import Conv1D


def count_tokens(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Return the number of tokens of each text, at least 1: int64 [B]."""
    if attention_mask is None:
        return torch.full((len(input_ids),), input_ids.shape[1], device=input_ids.device)
    return attention_mask.ne(0).sum(dim=1).clamp(min=1)


def align_left(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Move each row's tokens to its front, in order: return input_ids [B, T], padded on the right, and lengths int64 [B].

    The last token is found from the mask, never from the ids: GPT-2 pads with `<|endoftext|>`, which texts may hold.
    """
    if attention_mask is not None:
        order = attention_mask.ne(0).to(torch.int8).argsort(dim=1, descending=True, stable=True)
        input_ids = input_ids.gather(1, order)
    return input_ids, count_tokens(input_ids, attention_mask)


def pool(hidden: torch.Tensor, lengths: torch.Tensor, ln_f: nn.LayerNorm, pooling: str) -> torch.Tensor:
    """Return the normed vector that the head reads: [B, T, n_embd], padded on the right -> [B, n_embd]."""
    if pooling == "mean":
        normed = ln_f(hidden) * token_mask(hidden, lengths)[:, :, None]
        return normed.sum(dim=1) / lengths[:, None]
    index = lengths - 1 if pooling == "last" else torch.zeros_like(lengths)
    return ln_f(hidden[torch.arange(hidden.shape[0], device=hidden.device), index])


def token_mask(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return bool [B, T]: True for a token, False for padding on the right."""
    return torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]


class GPT2Block(modeling_gpt2.GPT2Block):
    """transformers' block, which can also compute its output for each text's last token alone.

    It bears the same name because FSDP's configs wrap blocks by name. The shortcut runs within `forward`, so that their
    hooks, which put a block's weights together, come before it.
    """

    def forward(
        self, hidden_states: torch.Tensor, *args: Any, lengths: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Return [B, T, n_embd], or, with `lengths`, int64 [B], each text's last token alone: [B, n_embd]."""
        if lengths is None:
            return super().forward(hidden_states, *args, **kwargs)
        return last_token_block(self, hidden_states, lengths)

    @property
    def has_shortcut(self) -> bool:
        """Whether `lengths` may be given: the shortcut reads the attention's weights, so it would pass an adapter over."""
        return type(self.attn.c_attn) is Conv1D


def last_token_block(block: GPT2Block, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return what `block(hidden)` gives for each text's last token, and compute nothing else: [B, T, n_embd] -> [B, n_embd].

    With one query q a text, no token needs a key or a value. For the normed tokens x_1 .. x_T, and each head:

        scores_t = q . (W_k x_t + b_k) = (W_k' q) . x_t + constant     (softmax drops the constant)
        weights  = softmax(scores)
        output   = sum_t weights_t (W_v x_t + b_v) = W_v (sum_t weights_t x_t) + b_v

    With d for n_embd, a text costs about 12 d^2 + 2 n_head d T multiply-adds in place of 12 d^2 T.
    """
    attn, batch, width = block.attn, hidden.shape[0], hidden.shape[-1]
    heads, size = attn.num_heads, attn.head_dim
    last = torch.arange(batch, device=hidden.device), lengths - 1
    # split, not slices: its backward is one concatenation instead of three sums over the whole weight.
    w_query, w_key, w_value = attn.c_attn.weight.split(width, dim=1)
    b_query, _, b_value = attn.c_attn.bias.split(width)

    normed = block.ln_1(hidden)
    query = torch.addmm(b_query, normed[last], w_query).view(batch, heads, size) * attn.scaling
    query = torch.bmm(query.transpose(0, 1), w_key.view(width, heads, size).permute(1, 2, 0))  # [heads, B, n_embd]
    # In float32 under autocast too: without its constant a score may be large, and 8 bits would blur the softmax.
    with torch.autocast(hidden.device.type, enabled=False):
        scores = torch.bmm(query.transpose(0, 1).float(), normed.float().transpose(1, 2))  # [B, heads, T]
    scores = scores.masked_fill(~token_mask(hidden, lengths)[:, None, :], -torch.inf)
    weights = attn.attn_dropout(scores.softmax(dim=-1)).to(query.dtype)
    mix = torch.bmm(weights, normed.to(weights.dtype))  # [B, heads, n_embd]
    value = torch.bmm(mix.transpose(0, 1), w_value.view(width, heads, size).transpose(0, 1)).transpose(0, 1)
    value = value + weights.sum(dim=-1, keepdim=True) * b_value.view(heads, size)  # the sum is 1 but for dropout
    residual = hidden[last] + attn.resid_dropout(attn.c_proj(value.reshape(batch, width)))
    return residual + block.mlp(block.ln_2(residual))

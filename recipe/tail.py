"""The tail: the blocks that train, the last-token shortcut in the top one, and the tail as a model of its own."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.gpt2.modeling_gpt2 import GPT2Block, GPT2Config, GPT2PreTrainedModel
from transformers.pytorch_utils import Conv1D


def run_tail(
    blocks: Sequence[GPT2Block],
    ln_f: nn.LayerNorm,
    score: nn.Linear,
    pooling: str,
    hidden: torch.Tensor,
    lengths: torch.Tensor,
) -> torch.Tensor:
    """Blocks, pooled token, final norm, head.

    Args:
        blocks: those above the trunk, possibly none.
        pooling: `last`, `first` or `mean`.
        hidden: what enters the first of the blocks, [B, T, n_embd], padded on the right.
        lengths: int64 [B], the number of tokens of each text.

    Returns:
        logits, [B, num_labels].
    """
    shortcut = pooling == "last" and len(blocks) > 0 and type(blocks[-1].attn.c_attn) is Conv1D  # no adapter in it
    for block in blocks[:-1] if shortcut else blocks:
        hidden = block(hidden)
    if shortcut:
        return score(ln_f(last_token_block(blocks[-1], hidden, lengths)))
    return score(pool(hidden, lengths, ln_f, pooling))


def pool(hidden: torch.Tensor, lengths: torch.Tensor, ln_f: nn.LayerNorm, pooling: str) -> torch.Tensor:
    """[B, T, n_embd], padded on the right -> the normed vector that the head reads, [B, n_embd]."""
    if pooling == "mean":
        normed = ln_f(hidden) * token_mask(hidden, lengths)[:, :, None]
        return normed.sum(dim=1) / lengths[:, None]
    index = lengths - 1 if pooling == "last" else torch.zeros_like(lengths)
    return ln_f(hidden[torch.arange(len(hidden), device=hidden.device), index])


def token_mask(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """bool [B, T]: True for a token, False for padding on the right."""
    return torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]


def last_token_block(block: GPT2Block, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """What `block(hidden)` gives for each text's last token, [B, T, n_embd] -> [B, n_embd], and nothing else.

    Every token needs its key and value, but only the last one needs a query, an output projection and an MLP: with d
    for n_embd, 2 d^2 T + 10 d^2 multiply-adds a text in place of 12 d^2 T. Padding costs nothing: it is left out of
    the projection.
    """
    attn, (batch, length, width) = block.attn, hidden.shape
    is_token = token_mask(hidden, lengths)
    last = lengths.cumsum(0) - 1  # the last token of each text among all tokens in a row
    # split, not two slices: its backward is one concatenation instead of two sums over the whole weight.
    query_weight, key_value_weight = attn.c_attn.weight.split([width, 2 * width], dim=1)
    query_bias, key_value_bias = attn.c_attn.bias.split([width, 2 * width])

    tokens = hidden[is_token]  # [N, n_embd]
    normed = block.ln_1(tokens)
    key_value = torch.addmm(key_value_bias, normed, key_value_weight)
    padded = key_value.new_zeros(batch, length, 2 * width)
    padded[is_token] = key_value
    key, value = padded.view(batch, length, 2, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4)
    query = torch.addmm(query_bias, normed[last], query_weight).view(batch, attn.num_heads, 1, attn.head_dim)
    mixed = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=is_token[:, None, None, :],
        dropout_p=attn.attn_dropout.p if attn.training else 0.0,
        scale=attn.scaling,
    )
    residual = tokens[last] + attn.resid_dropout(attn.c_proj(mixed.reshape(batch, width)))
    return residual + block.mlp(block.ln_2(residual))


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor | None, class_weights: torch.Tensor | None
) -> torch.Tensor | None:
    """Mean cross entropy in nats, [B, num_labels] and int64 [B]; weighted by label if class_weights [num_labels] is set."""
    return None if labels is None else F.cross_entropy(logits, labels, weight=class_weights)


def set_training_mode(modules: Iterable[nn.Module]) -> None:
    """Training mode for the modules that train, eval mode for those that are frozen."""
    for module in modules:
        module.train(any(p.requires_grad for p in module.parameters()))


class GPT2ClassifierTail(GPT2PreTrainedModel):
    """The tail of a GPT2LastTokenClassifier, for Trainer: the same modules, under the same parameter names.

    Training it trains the classifier it was taken from; its checkpoints hold nothing of the trunk.
    """

    accepts_loss_kwargs = False
    main_input_name = "hidden"

    def __init__(self, config: GPT2Config, blocks: dict[int, GPT2Block], ln_f: nn.LayerNorm, score: nn.Linear):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.transformer = nn.Module()
        self.transformer.h = nn.ModuleDict({str(i): block for i, block in blocks.items()})
        self.transformer.ln_f = ln_f
        self.score = score
        self.register_buffer("class_weights", None, persistent=False)
        self.post_init()

    def init_weights(self) -> None:
        """Nothing to initialize: the weights are the classifier's."""

    def train(self, mode: bool = True) -> "GPT2ClassifierTail":
        super().train(mode)
        if mode:
            set_training_mode((*self.transformer.h.values(), self.transformer.ln_f, self.score))
        return self

    def forward(
        self, hidden: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Classifies what left the trunk.

        Args:
            hidden: [B, T, n_embd], padded on the right, in the dtype that the trunk ran in.
            lengths: int64 [B], the number of tokens of each text.
            labels: int64 [B].

        Returns:
            `logits`, [B, num_labels], and with labels the mean cross entropy, in nats.
        """
        blocks, pooling = list(self.transformer.h.values()), getattr(self.config, "pooling", "last")
        logits = run_tail(blocks, self.transformer.ln_f, self.score, pooling, hidden.to(self.dtype), lengths)
        loss = classification_loss(logits, labels, self.class_weights)
        return SequenceClassifierOutput(loss=loss, logits=logits)

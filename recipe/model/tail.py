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

    With one query a text, keys and values need not be computed. For token x and head h, q.(W_k x + b_k) is
    (W_k' q).x and a constant that softmax drops; and the mix of the values W_v x + b_v is W_v of the mix of the x.
    So the query goes through W_k once, the mix through W_v once, and a token costs 2 n_head n_embd multiply-adds. With d
    for n_embd, a text costs about 12 d^2 + 2 n_head d T in place of 12 d^2 T (or of 2 d^2 T + 10 d^2 with keys and values).
    """
    attn, batch, width = block.attn, len(hidden), hidden.shape[-1]
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


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor | None, class_weights: torch.Tensor | None
) -> torch.Tensor | None:
    """Mean cross entropy in nats, [B, num_labels] and int64 [B]; weighted by label if class_weights [num_labels] is set.

    Weighted texts are summed and divided by their number, not by their weights: so parts of a batch, accumulated or in
    several processes, average to the whole batch's loss.
    """
    if labels is None or class_weights is None:
        return None if labels is None else F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, weight=class_weights, reduction="none").mean()


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

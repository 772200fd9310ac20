"""GPT-2 with a classification head on the last non-pad token, cut into a frozen trunk and a trainable tail."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import GPT2Config, GPT2Model
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.gpt2.modeling_gpt2 import GPT2PreTrainedModel

from recipe.errors import RecipeError, one_line
from recipe.model.loading import check_is_gpt2, check_loaded_weights, describe_weights, quiet_loading
from recipe.model.tail import GPT2ClassifierTail, classification_loss, run_tail, set_training_mode

POOLINGS = ("last", "first", "mean")


class GPT2ClassifierConfig(GPT2Config):
    """GPT2Config and what a classifier adds to it; what is None stays out of config.json.

    `pooling` is the token that the head reads: `last` (the recipe), `first` or `mean`. `decision_threshold`, for two labels,
    is the probability from which on label 1 is given; None is the likeliest label. `window`, `window_overlap` and
    `window_max_length`, in tokens, say how the texts were cut (see recipe/windows.py).
    """

    pooling: str = "last"
    decision_threshold: float | None = None
    window: int | None = None
    window_overlap: int | None = None
    window_max_length: int | None = None

    def to_dict(self) -> dict[str, Any]:
        ours = GPT2ClassifierConfig.__annotations__
        return {name: value for name, value in super().to_dict().items() if name not in ours or value is not None}


class GPT2LastTokenClassifier(GPT2PreTrainedModel):
    """`GPT2Model` and a linear head, `score`, that reads one token.

    `forward` is two methods, so that they can be called apart: `trunk` (embeddings and the leading frozen blocks, never
    in autograd) and `tail` (the other blocks, `ln_f`, `score`). What is frozen decides where the cut lies.

    The head reads the last token because it is the only one that attends to all others (`pooling: last`).
    """

    config: GPT2ClassifierConfig
    config_class = GPT2ClassifierConfig

    # For Trainer: the loss is a plain mean over the batch, which it still has to divide when it accumulates gradients.
    accepts_loss_kwargs = False

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        self.pooling = getattr(config, "pooling", "last")  # a plain GPT2Config will do
        if self.pooling not in POOLINGS:
            raise RecipeError(f"pooling is {self.pooling!r}: take one of {', '.join(POOLINGS)}")
        if config.num_labels < 2:
            raise RecipeError(f"num_labels is {config.num_labels}: a classifier needs at least 2 labels")
        if config._attn_implementation != "sdpa":  # the others are not causal when they get no mask
            raise RecipeError(f"attn_implementation is {config._attn_implementation!r}: only 'sdpa' is supported")
        self.num_labels = config.num_labels
        self.transformer = GPT2Model(config)
        self.score = nn.Linear(config.n_embd, config.num_labels)
        if config.activation_function == "gelu_new":
            for block in self.transformer.h:
                block.mlp.act = nn.GELU(approximate="tanh")  # the same function in one kernel instead of eight
        self.register_buffer("class_weights", None, persistent=False)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, ignore_mismatched_sizes: bool = False, **kwargs: Any
    ) -> "GPT2LastTokenClassifier":
        """Loads any GPT-2, saved as GPT2Model, GPT2LMHeadModel or GPT2ForSequenceClassification, in float32.

        Args:
            pretrained_model_name_or_path: a folder or a hub id; safetensors weights only.
            ignore_mismatched_sizes: replace a head of another size by a fresh one instead of refusing it.
            kwargs: `config`, or fields of it (`num_labels`, `id2label`, `pooling`, dropouts, which are 0 unless given),
                and `PreTrainedModel.from_pretrained`'s own arguments (`revision`, `cache_dir`, `dtype` ...).

        Raises:
            RecipeError (a ValueError): no such model, not a GPT-2, no safetensors weights, weights other than the
                head's missing, or a head of another size.
        """
        name = str(pretrained_model_name_or_path)
        if "config" not in kwargs:
            for dropout in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
                kwargs.setdefault(dropout, 0.0)
        want_info = kwargs.pop("output_loading_info", False)
        hub_kwargs = {
            key: kwargs[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in kwargs
        }
        check_is_gpt2(name, **hub_kwargs)
        try:
            with quiet_loading():
                model, info = super().from_pretrained(
                    name,
                    use_safetensors=True,
                    attn_implementation=kwargs.pop("attn_implementation", "sdpa"),
                    dtype=kwargs.pop("dtype", torch.float32),
                    ignore_mismatched_sizes=True,  # looked at below, where the message can say what to do
                    output_loading_info=True,
                    **kwargs,
                )
        except (OSError, SafetensorError) as error:
            raise RecipeError(f"{name}: no weights that load: {describe_weights(name) or one_line(error)}") from error
        check_loaded_weights(name, info, ignore_mismatched_sizes)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = model.config.eos_token_id
        return (model, info) if want_info else model

    @property
    def embeddings_frozen(self) -> bool:
        embeddings = (self.transformer.wte, self.transformer.wpe)
        return not any(p.requires_grad for module in embeddings for p in module.parameters())

    @property
    def split_depth(self) -> int:
        """How many blocks the trunk holds: those before the first one with a trainable parameter."""
        if not self.embeddings_frozen:
            return 0
        for depth, block in enumerate(self.transformer.h):
            if any(p.requires_grad for p in block.parameters()):
                return depth
        return self.config.n_layer

    @property
    def keeps_one_token(self) -> bool:
        """Whether the tail needs one token's hidden state alone: no block trains, and the head reads one token."""
        return self.split_depth == self.config.n_layer and self.pooling != "mean"

    def as_tail(self) -> GPT2ClassifierTail:
        """What trains, as a model of its own that takes the trunk's output; the modules are shared, not copied."""
        blocks = {i: self.transformer.h[i] for i in range(self.split_depth, self.config.n_layer)}
        tail = GPT2ClassifierTail(self.config, blocks, self.transformer.ln_f, self.score)
        tail.class_weights = self.class_weights
        return tail

    def train(self, mode: bool = True) -> "GPT2LastTokenClassifier":
        """As in `nn.Module`, but frozen modules stay in eval mode: a frozen trunk is a constant function."""
        super().train(mode)
        if mode:
            t = self.transformer
            set_training_mode((t.wte, t.wpe, *t.h, t.ln_f, self.score))
            t.drop.train(not self.embeddings_frozen)
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classifies a batch; padding may stand on either side.

        Args:
            input_ids: int64 [B, T], T <= n_positions.
            attention_mask: [B, T], 1 for a token and 0 for padding; None means that nothing is padding.
            labels: int64 [B].

        Returns:
            `logits`, [B, num_labels] in the model's dtype, and with labels the mean cross entropy, in nats.
        """
        input_ids, lengths = align_left(input_ids, attention_mask)
        logits = self.tail(self.trunk(input_ids), lengths)
        loss = classification_loss(logits, labels, self.class_weights)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def trunk(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings and the leading frozen blocks: int64 [B, T], padded on the right -> [B, T, n_embd].

        Causal attention needs no mask here: no token sees the padding to its right.
        """
        length, limit = input_ids.shape[1], self.config.n_positions
        if length > limit:
            raise RecipeError(f"input_ids has {length} tokens a text, but the model has {limit} positions: truncate it")
        positions = torch.arange(length, device=input_ids.device)
        # Frozen: out of autograd, so nothing is kept for a backward pass that never comes.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.embeddings_frozen):
            hidden = self.transformer.wte(input_ids) + self.transformer.wpe(positions)
            hidden = self.transformer.drop(hidden)
            for block in self.transformer.h[: self.split_depth]:
                hidden = block(hidden)
        return hidden

    def tail(self, hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The blocks after the trunk, the pooled token, `ln_f` and `score`.

        Args:
            hidden: the trunk's output, [B, T, n_embd], padded on the right.
            lengths: int64 [B], the number of tokens of each text.

        Returns:
            logits, [B, num_labels].
        """
        t = self.transformer
        return run_tail(t.h[self.split_depth :], t.ln_f, self.score, self.pooling, hidden, lengths)

    @torch.no_grad()
    def token_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What the head would say of every token, not only the pooled one: int64 [B, T] -> [B, T, num_labels]."""
        hidden = self.trunk(input_ids)
        for block in self.transformer.h[self.split_depth :]:
            hidden = block(hidden)
        return self.score(self.transformer.ln_f(hidden))


def align_left(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Moves each row's tokens to its front, in order, so that position i is token i wherever the padding was.

    The last token is found from the mask, never from the ids: GPT-2 pads with `<|endoftext|>`, which texts may hold.

    Returns:
        input_ids [B, T], padded on the right, and lengths int64 [B] (at least 1).
    """
    if attention_mask is None:
        batch, length = input_ids.shape
        return input_ids, torch.full((batch,), length, device=input_ids.device)
    order = attention_mask.ne(0).to(torch.int8).argsort(dim=1, descending=True, stable=True)
    return input_ids.gather(1, order), attention_mask.ne(0).sum(dim=1).clamp(min=1)

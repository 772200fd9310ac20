"""GPT-2 with a classification head on the last non-pad token, cut into a frozen trunk and a trainable tail."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, GPT2Config, GPT2Model
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.gpt2 import modeling_gpt2
from transformers.pytorch_utils import Conv1D

from recipe.errors import RecipeError, first_line
from recipe.model import loading

# ---- The token that the head reads: found from the attention mask, pooled, and a block that computes it alone ----


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


# ---- The model ----


class GPT2ClassifierConfig(GPT2Config):
    """GPT2Config with more fields; those that are None stay out of config.json.

    pooling: the token that the head reads: `last` (the recipe), `first` or `mean`.
    decision_threshold: for two labels, the probability from which on label 1 is predicted; None: the likelier label is.
    window, window_overlap, window_max_length: in tokens, how long texts were cut (see recipe/data/windows.py).

    Its model_type is not `gpt2`: without this package imported, the Auto classes then refuse such a folder. As `gpt2` they
    would load it as a stock GPT2ForSequenceClassification, which answers wrongly.
    """

    model_type = loading.MODEL_TYPE
    pooling: str = "last"
    decision_threshold: float | None = None
    window: int | None = None
    window_overlap: int | None = None
    window_max_length: int | None = None

    def to_dict(self) -> dict[str, Any]:
        ours = GPT2ClassifierConfig.__annotations__
        return {name: value for name, value in super().to_dict().items() if name not in ours or value is not None}


class GPT2LastTokenClassifier(modeling_gpt2.GPT2PreTrainedModel):
    """`GPT2Model` and a linear head, `score`, on one token.

    `forward` is two methods, so that they can be called apart: `trunk` (embeddings and the leading frozen blocks, never
    in autograd) and `tail` (the other blocks, `ln_f`, `score`). What is frozen decides where the cut lies.

    The head reads the last token because it is the only one that attends to all others (`pooling: last`).
    """

    config: GPT2ClassifierConfig
    config_class = GPT2ClassifierConfig

    # For Trainer: the loss is a plain mean over the batch, which it still has to divide when it accumulates gradients.
    accepts_loss_kwargs = False

    def __init__(self, config: GPT2Config):
        if not isinstance(config, GPT2ClassifierConfig):  # a plain GPT2Config will do
            fields = {name: value for name, value in config.to_dict().items() if name != "model_type"}
            config = GPT2ClassifierConfig(**fields, attn_implementation=config._attn_implementation)
        super().__init__(config)
        loading.check_classifier_config(config)
        self.pooling, self.num_labels = config.pooling, config.num_labels
        self.transformer = GPT2Model(config)
        self.score = nn.Linear(config.n_embd, config.num_labels)
        for block in self.transformer.h:
            block.__class__ = GPT2Block  # GPT2Model makes its own; they hold the same
            if config.activation_function == "gelu_new":
                block.mlp.act = nn.GELU(approximate="tanh")  # the same function in one kernel instead of eight
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        id2label: dict[int, str] | None = None,
        pooling: str | None = None,
        dropout: float = 0.0,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> "GPT2LastTokenClassifier":
        """Load any GPT-2, saved as GPT2Model, GPT2LMHeadModel or GPT2ForSequenceClassification, in float32.

        A classifier's head is kept where it fits; elsewhere the head is a fresh one (`head_description` says which, in words).

        Args:
            pretrained_model_name_or_path: a folder or a hub id; safetensors weights only.
            id2label: the labels by id. Without it, `num_labels` says how many there are, by default 2.
            pooling: `last`, `first` or `mean`; None takes what the checkpoint says, else `last`.
            dropout: of embeddings, attention and residuals, active in blocks that train.
            ignore_mismatched_sizes: replace a head for other labels by a fresh one instead of refusing it.
            kwargs: fields of the config, and `PreTrainedModel.from_pretrained`'s own (`config`, `revision`, `dtype` ...).

        Raises:
            RecipeError (a ValueError): no such model, not a GPT-2, no safetensors weights, weights other than the
                head's missing, or a head for other labels.
        """
        name = str(pretrained_model_name_or_path)
        if id2label is not None:
            kwargs |= {"id2label": id2label, "label2id": {label: i for i, label in id2label.items()}}
        if pooling is not None:
            kwargs["pooling"] = pooling
        if "config" not in kwargs:
            kwargs = {**dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout), **kwargs}
        want_info = kwargs.pop("output_loading_info", False)
        base_config = loading.load_config(name, **{key: kwargs[key] for key in loading.HUB_ARGUMENTS if key in kwargs})
        other_labels = loading.has_other_labels(name, base_config, id2label, ignore_mismatched_sizes)
        try:
            with loading.quiet_loading():
                model, info = super().from_pretrained(
                    name,
                    use_safetensors=True,
                    attn_implementation=kwargs.pop("attn_implementation", "sdpa"),
                    dtype=kwargs.pop("dtype", torch.float32),
                    ignore_mismatched_sizes=True,  # checked below, where the message can name the fix
                    output_loading_info=True,
                    **kwargs,
                )
        except (OSError, SafetensorError) as error:
            command = loading.conversion(Path(name).expanduser())
            lacks = "give a folder with a complete model.safetensors (in a git checkout, `git lfs pull`)"
            fix = f"weights that are pickled are not loaded: convert them: {command}" if command else lacks
            raise RecipeError(f"{name}: no safetensors weights that load ({first_line(error)}): {fix}") from error
        loading.check_loaded_weights(name, base_config, model, info, ignore_mismatched_sizes)
        if other_labels and not info["mismatched_keys"]:  # right size, wrong labels
            model.reset_head()
        replaced = other_labels or bool(info["mismatched_keys"])
        model.head_is_fresh = replaced or any(key != "score.bias" for key in info["missing_keys"])
        if model.config.pad_token_id is None:  # by which a stock model tells a text's end from padding
            model.config.pad_token_id = model.config.eos_token_id
        labels = f"{model.num_labels} labels ({', '.join(model.config.id2label.values())})"
        model.head_description = (
            f"fresh head for {labels}" if model.head_is_fresh else f"{name}'s head is kept, with its {labels}"
        )
        if replaced:
            model.head_description += f" in place of {name}'s ({', '.join(base_config.id2label.values())})"
        return (model, info) if want_info else model

    def reset_head(self) -> None:
        """Put a fresh head in the place of the checkpoint's."""
        for parameter in self.score.parameters():
            nn.init.normal_(parameter, std=self.config.initializer_range if parameter.dim() > 1 else 0)
        self.head_is_fresh = True

    @property
    def embeddings_frozen(self) -> bool:
        return not any(is_trained(module) for module in (self.transformer.wte, self.transformer.wpe))

    @property
    def split_depth(self) -> int:
        """Number of blocks in the trunk: those before the first one with a trainable parameter (an adapter's too)."""
        if not self.embeddings_frozen:
            return 0
        blocks = self.transformer.h
        return next((depth for depth, block in enumerate(blocks) if is_trained(block)), len(blocks))

    @property
    def keeps_one_token(self) -> bool:
        """Whether the tail needs one token's hidden state alone: no block trains, and the head reads one."""
        return self.split_depth == self.config.n_layer and self.pooling != "mean"

    def train(self, mode: bool = True) -> "GPT2LastTokenClassifier":
        """Set the training mode of what trains; frozen modules stay in eval mode: a frozen trunk is a constant function."""
        t = self.transformer
        self.training = t.training = t.h.training = mode
        for module in (t.wte, t.wpe, *t.h, t.ln_f, self.score):
            trains = mode and is_trained(module)
            if trains or module.training:  # Trainer calls this at every step: frozen modules cost a glance
                module.train(trains)
        t.drop.train(mode and not self.embeddings_frozen)
        return self

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        trunk_output: torch.Tensor | None = None,
        trunk_depth: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput | tuple:
        """Classify a batch; padding may stand on either side.

        Args:
            input_ids: int64 [B, T], T <= n_positions.
            attention_mask: [B, T], 1 for a token and 0 for padding; None means that nothing is padding.
            labels: int64 [B].
            trunk_output: what `trunk` gives for these input_ids, [B, T, n_embd] padded on the right ([B, 1, n_embd] where
                `keeps_one_token`), in any float dtype. With it the trunk is not run: `FeatureCollator` passes cached rows.
            trunk_depth: int64 [B], the blocks that trunk_output comes from, where that is known.
            inputs_embeds, output_attentions, output_hidden_states: not supported; here because peft passes them.
            return_dict: False for a tuple.

        Returns:
            `logits`, [B, num_labels] in the model's dtype, and with labels the mean cross entropy, in nats.

        Raises:
            RecipeError (a ValueError): inputs that are not supported, texts longer than n_positions, or nn.DataParallel.
        """
        if input_ids is None or inputs_embeds is not None or output_attentions or output_hidden_states:
            unsupported = "inputs_embeds, output_attentions and output_hidden_states"
            raise RecipeError(f"GPT2LastTokenClassifier takes input_ids and gives logits: leave out {unsupported}")
        if getattr(self, "_is_replica", False):  # its replicas have no parameters: nothing would tell what is frozen
            fix = "start with `accelerate launch`, or let one GPU be seen (CUDA_VISIBLE_DEVICES=0)"
            raise RecipeError(f"GPT2LastTokenClassifier does not train under nn.DataParallel: {fix}")
        depth = self.split_depth
        if trunk_output is None:
            input_ids, lengths = align_left(input_ids, attention_mask)
            hidden = self.trunk(input_ids, depth)
        else:
            # Values of a graph that is being compiled are not known.
            if trunk_depth is not None and not torch.compiler.is_compiling() and (trunk_depth != depth).any():
                was = f"{trunk_depth[trunk_depth != depth][0]} frozen blocks, but now {depth} are frozen"
                fix = "call cache_features after freeze_except, and leave requires_grad as it is"
                raise RecipeError(f"the trunk was cached with {was}: {fix}")
            hidden = trunk_output.to(self.dtype)
            lengths = count_tokens(input_ids, attention_mask).clamp(max=hidden.shape[1])  # 1 where one token is kept
        logits = self.tail(hidden, lengths, depth)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def trunk(self, input_ids: torch.Tensor, depth: int | None = None) -> torch.Tensor:
        """Run embeddings and the first `depth` blocks (split_depth): int64 [B, T], padded on the right -> [B, T, n_embd].

        Causal attention needs no mask here: no token attends to the padding on its right.
        """
        length, limit = input_ids.shape[1], self.config.n_positions
        if length > limit:
            raise RecipeError(f"input_ids has {length} tokens a text, but the model has {limit} positions: truncate it")
        positions = torch.arange(length, device=input_ids.device)
        # Frozen: out of autograd, so nothing is kept for a backward pass that never comes.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.embeddings_frozen):
            hidden = self.transformer.wte(input_ids) + self.transformer.wpe(positions)
            hidden = self.transformer.drop(hidden)
            for block in self.transformer.h[: self.split_depth if depth is None else depth]:
                hidden = block(hidden)
        return hidden

    def tail(self, hidden: torch.Tensor, lengths: torch.Tensor, depth: int | None = None) -> torch.Tensor:
        """Run the blocks after the trunk, pool one token, and apply `ln_f` and `score`.

        [B, T, n_embd], padded on the right, and the texts' lengths, int64 [B] -> logits, [B, num_labels].
        """
        ln_f, blocks = self.transformer.ln_f, list(self.transformer.h)[self.split_depth if depth is None else depth :]
        if any(block.gradient_checkpointing and block.training for block in blocks) and not hidden.requires_grad:
            hidden.requires_grad_(torch.is_grad_enabled())  # else reentrant checkpoints give their block no gradients
        one_token = blocks and self.pooling == "last" and blocks[-1].has_shortcut
        for block in blocks[:-1] if one_token else blocks:
            hidden = block(hidden)
        if one_token:
            return self.score(ln_f(blocks[-1](hidden, lengths=lengths)))
        return self.score(pool(hidden, lengths, ln_f, self.pooling))

    @torch.no_grad()
    def token_logits(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the head's logits for every token, not only the pooled one: int64 [B, T] -> [B, T, num_labels]."""
        hidden = self.trunk(input_ids)
        for block in self.transformer.h[self.split_depth :]:
            hidden = block(hidden)
        return self.score(self.transformer.ln_f(hidden))


def is_trained(module: nn.Module) -> bool:
    """Return whether any parameter of the module trains (as any over parameters(), ten times as fast)."""
    if any(p is not None and p.requires_grad for p in module._parameters.values()):
        return True
    return any(is_trained(child) for child in module._modules.values() if child is not None)


AutoConfig.register(loading.MODEL_TYPE, GPT2ClassifierConfig)
AutoModelForSequenceClassification.register(GPT2ClassifierConfig, GPT2LastTokenClassifier)

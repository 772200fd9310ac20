"""The checkpoint that every Hugging Face tool loads: a stock GPT2ForSequenceClassification."""

import json
import logging
from pathlib import Path

import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerBase

from recipe.atomic import write_files
from recipe.errors import RecipeError
from recipe.model.classifier import GPT2LastTokenClassifier

logger = logging.getLogger(__name__)

HOW_TO_LOAD = "predict.py reads it; pipeline() does after `from recipe import GPT2LastTokenClassifier`"
# Of a logit: what folding the bias away may cost, by the dtype that the stock model is served in.
MAX_BIAS_RESIDUAL = {torch.float32: 5e-5, torch.bfloat16: 0.1}


def to_stock(model: GPT2LastTokenClassifier) -> GPT2ForSequenceClassification:
    """Turn the model into a stock `GPT2ForSequenceClassification` with the same logits: a copy on the CPU.

    The stock head has no bias, but the norm before it has one. With head W, b and norm output n + beta, the logits are
    W(n + beta) + b = W(n + beta + pinv(W) b), exactly where W has full row rank, so pinv(W) b is added to `ln_f.bias`.

    Raises:
        RecipeError (a ValueError): pooling other than `last`, a head that is not linear, or one whose rows are too
            alike for its bias to fold.
    """
    if model.pooling != "last":
        raise RecipeError(f"pooling is {model.pooling!r}: GPT2ForSequenceClassification reads the last token only")
    if type(model.score) is not nn.Linear or model.score.bias is None:
        raise RecipeError(f"the head is {model.score}: GPT2ForSequenceClassification has a linear one")
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("pooling", "model_type")}
    config = GPT2Config(**{**fields, "problem_type": "single_label_classification"})
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    weight, bias = state["score.weight"].double(), state.pop("score.bias").double()
    shift = torch.linalg.pinv(weight) @ bias
    norm_bias = state["transformer.ln_f.bias"]
    folded = norm_bias.double() + shift
    for dtype, allowed in MAX_BIAS_RESIDUAL.items():
        # Of what is stored, rounding included: where rows are alike the shift is large, and so is what rounding loses.
        residual = (weight @ (folded.to(dtype).double() - norm_bias.double()) - bias).abs().max().item()
        if not residual <= allowed:
            raise RecipeError(
                f"the head's bias cannot be folded into ln_f.bias: {residual:.1e} of a logit would be lost in {dtype}"
                f" ({config.num_labels} labels, n_embd {config.n_embd}): its rows must be linearly independent"
            )
    state["transformer.ln_f.bias"] = folded.to(norm_bias.dtype)
    with torch.device("meta"):  # no time spent on random weights that the next line replaces
        stock = GPT2ForSequenceClassification(config)
    stock.load_state_dict(state, strict=True, assign=True)
    return stock.eval()


def warn_unless_stock(model: GPT2LastTokenClassifier) -> None:
    """Log a warning, before training, where the saved model will be of our own class."""
    if model.pooling != "last":
        reason = f"pooling is {model.pooling!r}"
    elif model.num_labels > model.config.n_embd:
        reason = f"there are {model.num_labels} labels, more than n_embd ({model.config.n_embd})"
    else:
        return
    logger.warning("%s: the saved model will be %s, our own class: %s", reason, type(model).__name__, HOW_TO_LOAD)


def save_classifier(
    model: GPT2LastTokenClassifier, tokenizer: PreTrainedTokenizerBase | None, folder: str | Path
) -> None:
    """Save the model, stock where one has the same logits, and its tokenizer; older files stay until all are written."""
    try:
        saved = to_stock(model)
    except RecipeError as error:  # rather a model of our own class than none
        logger.warning("the saved model is %s, our own class (%s): %s", type(model).__name__, error, HOW_TO_LOAD)
        saved = model
    if tokenizer is not None and tokenizer.pad_token_id is not None:
        saved.config.pad_token_id = tokenizer.pad_token_id  # by which a stock model tells a text's end from padding

    def write(temporary: Path) -> None:
        saved.save_pretrained(temporary)
        if tokenizer is not None:
            save_tokenizer(tokenizer, temporary)

    write_files(folder, write)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Save the tokenizer, under the class that takes all of tokenizer.json: GPT2Tokenizer ignores that texts are stripped."""
    tokenizer.save_pretrained(folder)
    if not tokenizer.is_fast:
        return
    path = Path(folder) / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

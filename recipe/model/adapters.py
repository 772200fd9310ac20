"""LoRA adapters (optional): low-rank changes of the blocks' matrices, trained in place of the matrices."""

from typing import TYPE_CHECKING

from transformers.pytorch_utils import Conv1D

from recipe.errors import RecipeError, as_recipe_error
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.freezing import FreezeReport, report_on

if TYPE_CHECKING:
    from peft import PeftModel


def add_adapters(model: GPT2LastTokenClassifier, r: int, alpha: float) -> tuple["PeftModel", FreezeReport]:
    """Put an adapter on each of the blocks' matrices that `freeze_except` has left trainable, and train these and the head.

    By Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models": a matrix [in, out] stays as it is, and
    `alpha / r` times a product [in, r] [r, out] is added, which starts at 0. Norms and biases stay frozen too.

    Raises:
        RecipeError: no matrix of a block is trainable, or no head, or peft is not installed.
    """
    with as_recipe_error(ImportError, "lora_r needs peft", "pip install 'gpt2-classifier-recipe[lora]'"):
        from peft import LoraConfig, get_peft_model

    matrices = [name for name, module in model.named_modules() if isinstance(module, Conv1D)]
    targets = [name for name in matrices if model.get_submodule(name).weight.requires_grad]
    if not targets:
        raise RecipeError("lora_r: trainable names no block's matrices to adapt: give last_blocks:K, or all")
    if not any(parameter.requires_grad for parameter in model.score.parameters()):
        raise RecipeError("lora_r: trainable leaves the head out, which trains with adapters: add 'score.*'")
    # SEQ_CLS trains the head `score` as it is; fan_in_fan_out: GPT-2 stores its matrices as [in, out].
    fields = {"r": r, "lora_alpha": alpha, "target_modules": targets, "fan_in_fan_out": True}
    adapted = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **fields))
    return adapted, report_on(
        (name.removeprefix("base_model.model.").replace(".modules_to_save.default", ""), parameter)
        for name, parameter in adapted.named_parameters()
        if ".original_module." not in name
    )

"""RecipeTrainer with peft adapters, and what it saves: the same logits in a stock model."""

import pytest
import torch
from conftest import tiny_model
from trainer_helpers import OTHER, PAD, assert_same, collate, compare, frozen_model, make_trainer, results
from transformers import (
    GPT2ForSequenceClassification,
)

from recipe.model.export import to_stock
from recipe.model.freezing import freeze_except


def lora_model(targets, layers, **options):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=targets, layers_to_transform=layers, layers_pattern="h", fan_in_fan_out=True, **options
    )
    return get_peft_model(tiny_model(), config)


@pytest.mark.parametrize(
    ("targets", "layers", "depth", "options"),
    [
        (["c_attn"], [3], 3, {"task_type": "SEQ_CLS"}),
        (["c_fc", "attn.c_proj"], [2, 3], 2, {"modules_to_save": ["score"]}),
    ],
)
def test_adapters_train_the_same_way_and_are_merged(tmp_path, targets, layers, depth, options):
    model = lora_model(targets, layers, **options)
    trainers = compare(tmp_path, model=model)
    assert trainers["cached"].train_dataset.features["trunk_output"].depth == depth
    trainer = trainers["cached"]
    trainer.save_model(tmp_path / "saved")
    stock = GPT2ForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    batch = collate(OTHER.to_list())
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits = stock(input_ids=batch["input_ids"].where(batch["attention_mask"] == 1, torch.tensor(PAD))).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


def test_adapters_resume_exactly(tmp_path):
    model = lora_model(["c_attn"], [3], task_type="SEQ_CLS")
    fields = {"model": model, "arguments_": {"save_strategy": "steps", "save_steps": 7}}
    straight = make_trainer("cached", tmp_path / "straight", **fields)
    straight.train()
    resumed = make_trainer("cached", tmp_path / "resumed", **fields)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "cached" / "checkpoint-7"))
    for (name, a), (_, b) in zip(straight.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_stock_model_in_trainer_trains_to_the_same_logits(tmp_path):
    """The outside reference: transformers' own class, which has no bias in its head, so ours is held at 0."""
    model = frozen_model(["transformer.h.3.*", "transformer.ln_f.*", "score.weight"])
    model.score.bias.data.zero_()
    stock = to_stock(model)
    freeze_except(stock, ["transformer.h.3.*", "transformer.ln_f.*", "score.weight"])
    ours = results(make_trainer("cached", tmp_path, model=model))
    theirs = results(make_trainer("trainer", tmp_path, model=stock, data_collator=collate))
    assert_same(theirs, ours, atol=1e-4)


def test_save_model_writes_the_stock_model_and_checkpoints_hold_what_trains(tmp_path):
    from safetensors.torch import load_file

    trainer = make_trainer("cached", tmp_path, arguments_={"save_strategy": "epoch"})
    trainer.train()
    trainer.save_model()
    stock = GPT2ForSequenceClassification.from_pretrained(tmp_path / "cached")
    batch = collate(OTHER.to_list())
    with torch.no_grad():
        ids = batch["input_ids"]
        torch.testing.assert_close(
            stock(ids).logits, torch.tensor(trainer.predict(OTHER).predictions), atol=1e-4, rtol=0
        )
    names = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    (checkpoint,) = tmp_path.glob("cached/checkpoint-20")
    assert set(load_file(checkpoint / "model.safetensors")) == names

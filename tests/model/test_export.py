import pytest
import torch
from conftest import tiny_model
from transformers import AutoModelForSequenceClassification, GPT2ForSequenceClassification

from recipe import to_stock


@torch.no_grad()
@pytest.mark.parametrize("num_labels", [2, 3, 32])
def test_logits_stay_whatever_the_bias(num_labels, tmp_path):
    model = tiny_model(num_labels=num_labels)
    model.score.bias.normal_(std=3)
    input_ids = torch.randint(0, 98, (8, 12))
    expected = model(input_ids=input_ids).logits
    stock = to_stock(model)
    assert type(stock) is GPT2ForSequenceClassification
    torch.testing.assert_close(stock(input_ids=input_ids).logits, expected, atol=1e-4, rtol=0)
    stock.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(input_ids=input_ids).logits, expected, atol=1e-4, rtol=0)
    assert loaded.config.activation_function == "gelu_new"
    assert not hasattr(loaded.config, "pooling")


@torch.no_grad()
def test_the_copy_shares_nothing_and_keeps_the_config():
    model = tiny_model()
    model.config.id2label, model.config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stock = to_stock(model)
    for parameter in stock.parameters():
        parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert stock.config.id2label == {0: "a", 1: "b", 2: "c"}


@torch.no_grad()
def test_models_without_a_stock_form_are_refused():
    with pytest.raises(ValueError, match="reads the last token only"):
        to_stock(tiny_model(pooling="mean"))
    model = tiny_model()
    # Rows almost alike: there is a shift, but so large that bfloat16 blurs it.
    model.score.weight[1] = model.score.weight[0] + 1e-4 * torch.randn(32)
    model.score.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match=r"would be lost in torch\.bfloat16"):
        to_stock(model)
    model = tiny_model()
    model.score.weight[1] = model.score.weight[0]  # same row, other bias: no shift of the input makes up for it
    model.score.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="linearly independent"):
        to_stock(model)

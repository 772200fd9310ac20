import json
import shutil

import pytest
import torch
from conftest import NANO, make_texts, tiny_folder, tiny_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GPT2ForSequenceClassification, pipeline

from recipe import GPT2LastTokenClassifier, to_stock
from recipe.model.export import save_classifier


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


@pytest.fixture
def other_pad(tmp_path):
    """A function that saves a base model whose config pads with other tokens than its tokenizer, and returns the folder."""

    def save(pad_token):
        folder = shutil.copytree(tiny_folder(), tmp_path / "base")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": 7}))
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": pad_token}))
        return folder

    return save


@pytest.mark.parametrize(("pad_token", "pad_id"), [("~", None), (None, 8191)])
def test_a_saved_config_pads_as_its_tokenizer(other_pad, pad_token, pad_id, tmp_path):
    """pipeline() finds the last token by the config's id: in batches too, texts are classified as they are alone."""
    base = other_pad(pad_token)
    torch.manual_seed(0)
    model, tokenizer = GPT2LastTokenClassifier.from_pretrained(base, num_labels=3), AutoTokenizer.from_pretrained(base)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # as everyone does
    save_classifier(model, tokenizer, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["pad_token_id"] == tokenizer.pad_token_id == (pad_id or tokenizer.convert_tokens_to_ids(pad_token))
    texts = make_texts(32, ["sport"])["text"].tolist()
    classify = pipeline("text-classification", str(tmp_path / "saved"))
    alone, together = classify(texts), classify(texts, batch_size=16)
    assert [answer["score"] for answer in together] == pytest.approx([answer["score"] for answer in alone], abs=1e-5)


def test_a_pad_token_that_is_set_later_is_saved_too(tmp_path):
    """And in a folder of our own class."""
    model, tokenizer = tiny_model(vocab_size=8192, pooling="mean"), AutoTokenizer.from_pretrained(NANO)
    tokenizer.pad_token = "~"
    save_classifier(model, tokenizer, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["pad_token_id"] == tokenizer.pad_token_id != 99


def test_a_pad_token_that_is_given_is_kept(other_pad):
    assert GPT2LastTokenClassifier.from_pretrained(other_pad("~"), pad_token_id=5).config.pad_token_id == 5

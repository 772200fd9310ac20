import json
import shutil

import pytest
import torch
from conftest import NANO, tiny_model
from torch.nn import functional as F
from transformers import AutoTokenizer, BertConfig, BertModel, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

from recipe import GPT2LastTokenClassifier, freeze_except, last_blocks
from recipe.errors import RecipeError


@pytest.fixture
def nano_stock() -> GPT2ForSequenceClassification:
    torch.manual_seed(1)
    return GPT2ForSequenceClassification.from_pretrained(NANO, num_labels=3, dtype=torch.float32).eval()


def nano_like(stock: GPT2ForSequenceClassification) -> GPT2LastTokenClassifier:
    """Our model with the stock model's weights and no bias."""
    model = GPT2LastTokenClassifier.from_pretrained(NANO, num_labels=3)
    missing, unexpected = model.load_state_dict(stock.state_dict(), strict=False)
    assert (missing, unexpected) == (["score.bias"], [])
    return model.eval()


TEXTS = ["Do you have time", "ok", "A much longer message, with many more tokens than the others have."]


@torch.no_grad()
def test_logits_equal_transformers_own(nano_stock):
    model, tokenizer = nano_like(nano_stock), AutoTokenizer.from_pretrained(NANO)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    torch.testing.assert_close(model(**batch).logits, nano_stock(**batch).logits, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_padding_on_either_side_changes_nothing(pooling):
    model = tiny_model(pooling=pooling)
    rows = [[5, 6, 7, 8, 9], [10, 99], [99], [11, 12, 99, 99, 13]]  # 99 is also what pads
    alone = torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows])
    right = torch.tensor([row + [99] * (7 - len(row)) for row in rows])
    left = torch.tensor([[99] * (7 - len(row)) + row for row in rows])
    right_mask = torch.tensor([[1] * len(row) + [0] * (7 - len(row)) for row in rows])
    left_mask = right_mask.flip(1)
    for input_ids, mask in ((right, right_mask), (left, left_mask), (left, left_mask.bool())):
        torch.testing.assert_close(model(input_ids, mask).logits, alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_pooling_reads_the_named_token():
    input_ids = torch.tensor([[3, 1, 4, 1, 5]])
    for pooling, pick in (("last", lambda h: h[:, -1]), ("first", lambda h: h[:, 0]), ("mean", lambda h: h.mean(1))):
        model = tiny_model(pooling=pooling)
        reference = GPT2Model(model.config).eval()
        reference.load_state_dict(model.transformer.state_dict())
        expected = model.score(pick(reference(input_ids).last_hidden_state))
        torch.testing.assert_close(model(input_ids=input_ids).logits, expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="pooling is 'max'"):
        tiny_model(pooling="max")


@torch.no_grad()
def test_a_text_that_ends_in_endoftext_is_read_at_its_own_last_token():
    model = tiny_model()
    ends, same = torch.tensor([[7, 8, 99]]), torch.tensor([[7, 8, 99, 99, 99]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(model(same, mask).logits, model(ends).logits, atol=1e-5, rtol=0)
    assert not torch.allclose(model(ends).logits, model(ends[:, :2]).logits, atol=1e-3)


def test_loss_is_the_mean_cross_entropy():
    model = tiny_model()
    input_ids, labels = torch.randint(0, 99, (6, 5)), torch.tensor([0, 1, 2, 0, 0, 1])
    output = model(input_ids=input_ids, labels=labels)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))


@torch.no_grad()
@pytest.mark.parametrize(("patterns", "pooling"), [(None, "last"), (["score.*"], "last"), (["score.*"], "mean")])
def test_trunk_output_stands_in_for_running_the_trunk(patterns, pooling):
    model = tiny_model(pooling=pooling)
    freeze_except(model, patterns or last_blocks(model.config, 2))
    left = torch.tensor([[99, 5, 6, 7], [1, 2, 3, 4]])
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    aligned, lengths = torch.tensor([[5, 6, 7, 99], [1, 2, 3, 4]]), torch.tensor([3, 4])
    hidden = model.trunk(aligned)
    if model.keeps_one_token:
        hidden = hidden[torch.arange(2), lengths - 1][:, None]
    expected = model(input_ids=left, attention_mask=mask).logits
    output = model(input_ids=left, attention_mask=mask, trunk_output=hidden)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_forward_takes_the_standard_keywords():
    """As peft's SEQ_CLS wrapper passes them."""
    model, input_ids = tiny_model(), torch.tensor([[1, 2, 3]])
    standard = {"inputs_embeds": None, "output_attentions": None, "output_hidden_states": None}
    (logits,) = model(input_ids=input_ids, return_dict=False, **standard)
    torch.testing.assert_close(logits, model(input_ids=input_ids).logits)
    with pytest.raises(RecipeError, match="takes input_ids and gives logits: leave out inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 3, 32))


@pytest.mark.parametrize("trainable", [["score.*"], None, ["transformer.h.1.*", "score.*"], ["*"]])
def test_gradients_equal_those_of_an_uncut_model(trainable):
    model = tiny_model()
    patterns = last_blocks(model.config, 1) if trainable is None else trainable
    freeze_except(model, patterns)
    stock = GPT2ForSequenceClassification(model.config)
    stock.load_state_dict(model.state_dict(), strict=False)
    stock.score.bias = torch.nn.Parameter(model.score.bias.detach().clone())
    freeze_except(stock, patterns)
    input_ids, labels = torch.randint(0, 98, (4, 6)), torch.tensor([0, 1, 2, 1])
    model.train()(input_ids=input_ids, labels=labels).loss.backward()
    stock.train()(input_ids=input_ids, labels=labels).loss.backward()
    expected = {name: p.grad for name, p in stock.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
        else:
            assert parameter.grad is None


def test_trunk_ends_below_the_first_trained_block_and_stays_out_of_autograd():
    model = tiny_model()
    input_ids = torch.randint(0, 98, (2, 6))
    for patterns, depth in (
        (["*"], 0),
        (["transformer.h.*", "score.*"], 0),
        (["score.*"], 4),
        (["transformer.h.2.*"], 2),
    ):
        freeze_except(model, patterns)
        assert model.split_depth == depth
        assert model.train().trunk(input_ids).requires_grad == (patterns == ["*"])
    freeze_except(model, ["transformer.wte.*", "score.*"])
    assert model.split_depth == 0
    assert model.trunk(input_ids).requires_grad


def test_frozen_modules_stay_in_eval_mode():
    model = tiny_model(resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    freeze_except(model, last_blocks(model.config, 1))
    model.train()
    assert not any(module.training for block in model.transformer.h[:3] for module in block.modules())
    assert not model.transformer.drop.training
    assert all(module.training for module in model.transformer.h[3].modules())
    input_ids = torch.randint(0, 98, (2, 6))
    assert torch.equal(model.trunk(input_ids), model.trunk(input_ids))
    assert not torch.equal(model(input_ids).logits, model(input_ids).logits)  # the tail does drop
    model.eval()
    assert not any(module.training for module in model.modules())


def test_fused_gelu_runs_and_the_config_keeps_its_name(tmp_path):
    model = tiny_model()
    assert type(model.transformer.h[0].mlp.act) is torch.nn.GELU
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["activation_function"] == "gelu_new"


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="65 tokens a text, but the model has 64"):
        tiny_model()(input_ids=torch.zeros(1, 65, dtype=torch.long))


@pytest.mark.parametrize("kind", [GPT2Model, GPT2LMHeadModel, GPT2ForSequenceClassification])
def test_loads_whatever_gpt2_was_saved_as(kind, tmp_path):
    saved = kind.from_pretrained(NANO, dtype=torch.float16)
    saved.save_pretrained(tmp_path)
    model = GPT2LastTokenClassifier.from_pretrained(tmp_path, num_labels=2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    weights = getattr(saved, "transformer", saved).state_dict()
    assert all(torch.equal(weights[name].float(), tensor) for name, tensor in model.transformer.state_dict().items())
    assert (model.config.resid_pdrop, model.config.embd_pdrop, model.config.attn_pdrop) == (0, 0, 0)
    if kind is GPT2ForSequenceClassification:
        assert torch.equal(model.score.weight, saved.score.weight.float())
        assert not model.score.bias.any()


def test_head_is_kept_and_another_size_refused(tmp_path):
    model = tiny_model(num_labels=3, pooling="mean")
    model.save_pretrained(tmp_path)
    again = GPT2LastTokenClassifier.from_pretrained(tmp_path)
    assert again.pooling == "mean"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"head has 3 labels but 5 are needed.*ignore_mismatched_sizes"):
        GPT2LastTokenClassifier.from_pretrained(tmp_path, num_labels=5)
    fresh = GPT2LastTokenClassifier.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    assert fresh.score.weight.shape == (5, 32)
    assert torch.equal(fresh.transformer.wte.weight, model.transformer.wte.weight)


def test_other_architectures_are_refused(tmp_path):
    bert = tmp_path / "bert"
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(bert)
    with pytest.raises(RecipeError, match="of type 'bert', not 'gpt2'"):
        GPT2LastTokenClassifier.from_pretrained(bert)
    with pytest.raises(RecipeError, match="does not exist"):
        GPT2LastTokenClassifier.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(RecipeError, match="neither a local folder nor found on the hub"):
        GPT2LastTokenClassifier.from_pretrained("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"no readable config\.json"):
        GPT2LastTokenClassifier.from_pretrained(tmp_path / "empty")


def test_pickle_and_incomplete_weights_are_refused(tmp_path):
    model = tiny_model()
    pickled = tmp_path / "pickled"
    model.config.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(RecipeError, match="no safetensors weights that load"):
        GPT2LastTokenClassifier.from_pretrained(pickled)
    partial = tmp_path / "partial"
    state = {name: tensor for name, tensor in model.state_dict().items() if "h.2." not in name}
    model.save_pretrained(partial, state_dict=state)
    with pytest.raises(RecipeError, match=r"lacks 12 GPT-2 weights \(transformer\.h\.2\."):
        GPT2LastTokenClassifier.from_pretrained(partial)
    (tmp_path / "broken").mkdir()
    shutil.copy(NANO / "config.json", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(RecipeError, match="broken"):
        GPT2LastTokenClassifier.from_pretrained(tmp_path / "broken")


@torch.no_grad()
def test_the_shortcut_drops_values_with_their_bias_as_transformers_does():
    """With every weight dropped, attention's output is that of no value at all."""
    block = tiny_model(attn_pdrop=1.0).transformer.h[3].train()
    hidden, lengths = torch.randn(3, 7, 32), torch.tensor([7, 7, 7])
    torch.testing.assert_close(block(hidden, lengths=lengths), block(hidden)[:, -1], atol=1e-5, rtol=0)
    assert block.attn.c_attn.bias[-32:].abs().min() > 0


def test_the_shortcut_is_close_under_autocast_too():
    """With keys far from zero, as GPT-2's are: what softmax drops must not blur what is left."""
    model = tiny_model()
    with torch.no_grad():
        model.transformer.h[3].attn.c_attn.bias[32:64].add_(5)
    input_ids = torch.randint(0, 98, (4, 20))
    exact = model(input_ids=input_ids).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(input_ids=input_ids).logits
    stock = GPT2ForSequenceClassification(model.config).eval()
    stock.load_state_dict(model.state_dict(), strict=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference = stock(input_ids=input_ids).logits + model.score.bias
    assert (rounded - exact).abs().max() < 2 * (reference - exact).abs().max() + 1e-2


def test_a_config_can_be_given(tmp_path):
    model = tiny_model(num_labels=3)
    model.save_pretrained(tmp_path)
    config = type(model.config).from_pretrained(tmp_path, resid_pdrop=0.3)
    assert GPT2LastTokenClassifier.from_pretrained(tmp_path, config=config).config.resid_pdrop == 0.3


def test_adapters_in_the_top_block_are_not_passed_by():
    """The shortcut reads c_attn's weight; a layer put in its place must run instead."""
    model, input_ids = tiny_model(), torch.randint(0, 98, (3, 6))
    before = model(input_ids=input_ids).logits

    class Doubled(torch.nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer, self.weight, self.bias = layer, layer.weight, layer.bias

        def forward(self, hidden):
            return 2 * self.layer(hidden)

    attention = model.transformer.h[3].attn
    attention.c_attn = Doubled(attention.c_attn)
    assert not torch.allclose(model(input_ids=input_ids).logits, before, atol=1e-3)


def test_other_attention_and_one_label_are_refused():
    with pytest.raises(RecipeError, match="only 'sdpa'"):
        tiny_model(attn_implementation="eager")
    with pytest.raises(RecipeError, match="num_labels is 1"):
        tiny_model(num_labels=1)

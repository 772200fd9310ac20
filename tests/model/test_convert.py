"""Weights of other forms: converted, they give the logits that their own code gives; what cannot be placed is refused."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NANO, ROOT, assert_one_line, make_texts, tiny_folder, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, GPT2Model

from recipe import GPT2LastTokenClassifier, TextClassifier, to_stock
from recipe.errors import RecipeError
from recipe.model.convert import Source, build_model, make_config, read_source
from recipe.model.loading import load_config

OPENAI = Path(__file__).parent / "data" / "openai_gpt2"
SCRIPT = ["python", ROOT / "scripts" / "convert_weights.py"]
WIDTH, HEADS, WORDS, POSITIONS, LAYERS = 16, 2, 8192, 20, 2
IDS = torch.randint(0, WORDS, (3, 12), generator=torch.Generator().manual_seed(0))


def attend(query, key, value):
    """Causal attention of [B, T, C] in HEADS heads, from its formula."""
    batch, length, _ = query.shape
    query, key, value = (x.view(batch, length, HEADS, -1).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.mT / query.shape[-1] ** 0.5
    future = torch.ones(length, length).triu(1).bool()
    return (scores.masked_fill(future, -torch.inf).softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1)


def randomize(model):
    """Fill a model with weights large enough that each of them matters."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        is_norm = name.endswith("scale") or ("ln_" in name and name.endswith("weight"))
        nn.init.normal_(parameter, mean=float(is_norm), std=0.3)
    return model.eval()


class BookNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        return F.layer_norm(x, (WIDTH,), self.scale, self.shift, 1e-5)


class BookBlock(nn.Module):
    """A block under the book's names, with its mask."""

    def __init__(self, bias):
        super().__init__()
        self.att, self.ff = nn.Module(), nn.Module()
        for part in ("W_query", "W_key", "W_value"):
            self.att.add_module(part, nn.Linear(WIDTH, WIDTH, bias=bias))
        self.att.out_proj = nn.Linear(WIDTH, WIDTH)
        self.att.register_buffer("mask", torch.ones(POSITIONS, POSITIONS).triu(1))
        self.ff.layers = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH)
        )
        self.norm1, self.norm2 = BookNorm(), BookNorm()

    def forward(self, x):
        y, att = self.norm1(x), self.att
        x = x + att.out_proj(attend(att.W_query(y), att.W_key(y), att.W_value(y)))
        return x + self.ff.layers(self.norm2(x))


class Book(nn.Module):
    """The parameters of the book's GPTModel, and its logits."""

    def __init__(self, bias=True, labels=None):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(WORDS, WIDTH), nn.Embedding(POSITIONS, WIDTH)
        self.trf_blocks = nn.Sequential(*(BookBlock(bias) for _ in range(LAYERS)))
        self.final_norm = BookNorm()
        self.out_head = nn.Linear(WIDTH, labels or WORDS, bias=labels is not None)

    def forward(self, ids):
        x = self.tok_emb(ids) + self.pos_emb.weight[: ids.shape[1]]
        return self.out_head(self.final_norm(self.trf_blocks(x)))


class NanoBlock(nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH, bias=bias), nn.LayerNorm(WIDTH, bias=bias)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.c_attn, self.attn.c_proj = nn.Linear(WIDTH, 3 * WIDTH, bias=bias), nn.Linear(WIDTH, WIDTH, bias=bias)
        self.attn.register_buffer("bias", torch.ones(1, 1, POSITIONS, POSITIONS).tril())
        self.mlp.c_fc, self.mlp.c_proj = (
            nn.Linear(WIDTH, 4 * WIDTH, bias=bias),
            nn.Linear(4 * WIDTH, WIDTH, bias=bias),
        )

    def forward(self, x):
        x = x + self.attn.c_proj(attend(*self.attn.c_attn(self.ln_1(x)).split(WIDTH, dim=2)))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class Nano(nn.Module):
    """The parameters of nanoGPT, and its logits."""

    def __init__(self, bias):
        super().__init__()
        blocks = nn.ModuleList(NanoBlock(bias) for _ in range(LAYERS))
        parts = {"wte": nn.Embedding(WORDS + 64, WIDTH), "wpe": nn.Embedding(POSITIONS, WIDTH), "h": blocks}
        self.transformer = nn.ModuleDict({**parts, "ln_f": nn.LayerNorm(WIDTH, bias=bias)})
        self.lm_head = nn.Linear(WIDTH, WORDS + 64, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, ids):
        t = self.transformer
        x = t.wte(ids) + t.wpe.weight[: ids.shape[1]]
        for block in t.h:
            x = block(x)
        return self.lm_head(t.ln_f(x))

    def checkpoint(self):
        state = {f"_orig_mod.{name}": tensor for name, tensor in self.state_dict().items()}
        arguments = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "bias": True, "dropout": 0.0}
        optimizer = torch.optim.AdamW(self.parameters()).state_dict()
        more = {"optimizer": optimizer, "iter_num": 5, "best_val_loss": torch.tensor(3.0), "config": {"device": "cpu"}}
        return {"model": state, "model_args": arguments, **more}


def convert(run_here, source, folder, *options):
    result = run_here([*SCRIPT, "--source", source, "--output_dir", folder, *options])
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def convert_file(run_here, tmp_path, content, *options):
    torch.save(content, tmp_path / "weights.pt")
    return convert(run_here, tmp_path / "weights.pt", tmp_path / "out", "--tokenizer", NANO, *options)


@torch.no_grad()
def hidden_states(folder, ids=IDS):
    return GPT2Model.from_pretrained(folder).eval()(ids).last_hidden_state


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_openais_files_give_the_logits_that_tensorflow_computed(tmp_path, run_here):
    """From the variables that TensorFlow wrote: tests/model/data/make_openai_gpt2.py."""
    printed = convert(run_here, OPENAI, tmp_path / "out")
    assert "OpenAI's TensorFlow checkpoint" in printed
    assert "4,352 parameters: 2 blocks, n_embd 8, n_head 2, 24 positions, vocabulary 300" in printed
    hidden = hidden_states(tmp_path / "out", torch.from_numpy(np.load(OPENAI / "input_ids.npy")))
    weights = load_file(tmp_path / "out" / "model.safetensors")
    close(hidden @ weights["wte.weight"].T, torch.from_numpy(np.load(OPENAI / "logits.npy")))
    names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    config = load_config(str(tmp_path / "out"))
    assert (config.bos_token_id, config.eos_token_id, config.architectures) == (299, 299, ["GPT2Model"])
    assert GPT2LastTokenClassifier.from_pretrained(tmp_path / "out").head_is_fresh


def test_encoder_json_and_vocab_bpe_are_the_tokenizer(tmp_path, run_here):
    """As openai_gpt2 with the tokenizer of gpt2-nano in OpenAI's two files."""
    folder = shutil.copytree(OPENAI, tmp_path / "source")
    own = json.loads((NANO / "tokenizer.json").read_text())["model"]
    vocabulary = {word: i for word, i in own["vocab"].items() if i < 299} | {"<|endoftext|>": 299}
    merges = [" ".join(pair) for pair in own["merges"] if "".join(pair) in vocabulary]
    (folder / "encoder.json").write_text(json.dumps(vocabulary))
    (folder / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges, ""]))
    convert(run_here, folder, tmp_path / "out")
    ours, nano = (AutoTokenizer.from_pretrained(path) for path in (tmp_path / "out", NANO))
    cut = nano.backend_tokenizer.model.__class__(vocabulary, [tuple(merge.split(" ")) for merge in merges])
    nano.backend_tokenizer.model = cut
    texts = [*make_texts(20, ["sport"])["text"], " Zwölf  Boxkämpfer\n🎉", "<|endoftext|>"]
    assert ours(texts)["input_ids"] == nano(texts)["input_ids"]
    assert ours.eos_token_id == 299


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_the_books_gptmodel(bias, tmp_path, run_here):
    model = randomize(Book(bias))
    content = {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": torch.optim.AdamW([model.pos_emb.weight]),
    }
    content["optimizer_state_dict"] = content["optimizer_state_dict"].state_dict()
    printed = convert_file(run_here, tmp_path, content if bias else model.state_dict(), "--n_head", "2")
    assert "GPTModel" in printed
    assert "left out: a language model's head of its own" in printed
    close(model.out_head(hidden_states(tmp_path / "out")), model(IDS))


@torch.no_grad()
def test_a_language_models_head_that_is_the_embedding_is_not_mentioned(tmp_path, run_here):
    model = randomize(Book())
    model.out_head.weight.copy_(model.tok_emb.weight)
    assert "left out" not in convert_file(run_here, tmp_path, model.state_dict(), "--n_head", "2")


@torch.no_grad()
@pytest.mark.parametrize("names", [["ham", "spam"], None])
def test_a_classifier_of_the_book_becomes_a_stock_classifier(names, tmp_path, run_here):
    model = randomize(Book(labels=2))
    options = ["--label_names", *names] if names else []
    printed = convert_file(run_here, tmp_path, model.state_dict(), "--n_head", "2", *options)
    assert "reads the last position" in printed
    stock = GPT2ForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    expected = model(IDS)[:, -1]
    close(stock(input_ids=IDS).logits, expected)
    classifier = TextClassifier.from_pretrained(tmp_path / "out")
    assert classifier.label_names == (names or ["LABEL_0", "LABEL_1"])
    text = "the goal of the match"
    ids = torch.tensor([AutoTokenizer.from_pretrained(NANO)(text)["input_ids"]])
    close(torch.tensor(classifier.predict([text])[1]).float(), model(ids)[:, -1].softmax(-1))


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_nanogpts_checkpoint(bias, tmp_path, run_here):
    """Its heads stand in the file; rows that pad its vocabulary stay."""
    model = randomize(Nano(bias))
    printed = convert_file(run_here, tmp_path, model.checkpoint())
    assert "nanoGPT" in printed
    assert "n_head 2, 20 positions, vocabulary 8,256" in printed
    close(hidden_states(tmp_path / "out") @ model.lm_head.weight.T, model(IDS))
    config = load_config(str(tmp_path / "out"))
    assert (config.activation_function, config.eos_token_id) == ("gelu", 8191)


@torch.no_grad()
@pytest.mark.parametrize("form", ["plain", "prefixed", "old", "half", "safetensors"])
def test_state_dicts_with_transformers_names(form, tmp_path, run_here):
    sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "n_positions": POSITIONS, "vocab_size": WORDS}
    model = GPT2LMHeadModel(GPT2Config(**sizes, n_inner=40, bos_token_id=None, eos_token_id=None)).eval()
    masks = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 20, 20).tril(),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    state = model.transformer.state_dict() if form == "plain" else {**model.state_dict(), **masks}
    if form == "half":
        model = model.half().float()
        state = {name: tensor.half() for name, tensor in state.items()}
    source = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file({name: tensor for name, tensor in state.items() if name != "lm_head.weight"}, source)
    else:
        torch.save(state, source, _use_new_zipfile_serialization=form != "old")
    printed = convert(run_here, source, tmp_path / "out", "--n_head", "2", "--tokenizer", NANO)
    assert "transformers' names" in printed
    assert "left out" not in printed
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}
    close(hidden_states(tmp_path / "out") @ model.lm_head.weight.T, model(IDS).logits)


@torch.no_grad()
def test_a_folder_with_pytorch_model_bin_keeps_its_config_and_head(tmp_path, run_here):
    """A classifier, with its tokenizer beside it, whose config is not GPT-2's usual one."""
    model = tiny_model(vocab_size=8192, eos_token_id=8191, bos_token_id=8191, pad_token_id=8191, layer_norm_epsilon=0.1)
    stock = to_stock(model)
    stock.config.id2label, stock.config.label2id = {0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}
    stock.config.save_pretrained(tmp_path / "bin")
    torch.save(stock.state_dict(), tmp_path / "bin" / "pytorch_model.bin")
    (tmp_path / "bin" / "training_args.bin").write_bytes(b"pickled")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(NANO / name, tmp_path / "bin")
    convert(run_here, tmp_path / "bin", tmp_path / "out")
    loaded = GPT2ForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    close(loaded(input_ids=IDS).logits, stock(input_ids=IDS).logits)
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert loaded.config.layer_norm_epsilon == 0.1


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 20), (1600, 25)])
def test_gpt2s_own_widths_tell_the_heads(width, heads):
    sizes = {"n_layer": 1, "n_embd": width, "n_head": heads}
    with torch.device("meta"):
        source = Source(Path("x.pt"), "", GPT2Model(GPT2Config(**sizes)).state_dict())
    assert make_config(source).n_head == heads
    assert f"n_head is taken to be {heads}" in source.notes[0]
    assert make_config(source, n_head=8).n_head == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("trf_blocks.1.ff.layers.2.bias"), "h.1.mlp.c_proj.bias is missing"),
        (lambda state: state.pop("trf_blocks.1.att.W_key.bias"), "W_query.bias is no weight of a GPT-2 (and 1 more)"),
        (lambda state: state.pop("pos_emb.weight"), "its embeddings are [8192, 16] and []"),
        (lambda state: state.update({"out_head.lora.A": torch.ones(2)}), "out_head.lora.A is no weight of a GPT-2"),
        (lambda state: state.update({"trf_blocks.9.norm1.scale": torch.ones(16)}), "h.9.ln_1.weight is no weight"),
        (lambda state: state.update({"wte.weight": torch.ones(16)}), "stands for wte.weight, which is there already"),
        (lambda state: state.update({"final_norm.shift": torch.ones(8)}), "ln_f.bias is [8] of float32, but a GPT-2"),
        (lambda state: state.update({"final_norm.shift": torch.ones(16).int()}), "ln_f.bias is [16] of int32"),
        (lambda state: state.update({"step": 5}), "step is no tensor"),
        (lambda state: state.update({7: torch.ones(2)}), "7 is no weight of a GPT-2"),
        (lambda state: state.update({"out_head.weight": torch.tensor(1.0)}), "score.weight is [] of float32"),
        (lambda state: state.update({"trf_blocks.0.ff.layers.0.weight": torch.tensor(1)}), "c_fc.weight is [] of int"),
        (lambda state: state.pop("tok_emb.weight"), "these are not the weights of a GPT-2"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, message, tmp_path):
    state = Book().state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pt")

    def place():
        source = read_source(tmp_path / "weights.pt")
        return build_model(source, make_config(source, n_head=2))

    with pytest.raises(RecipeError, match=re.escape(message)):
        place()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (Book().state_dict(), [], "n_embd 16 does not tell the number of attention heads: give --n_head"),
        (Book().state_dict(), ["--n_head", "0"], "n_head 0 does not divide n_embd 16"),
        (Book().state_dict(), ["--n_head", "3"], "n_head 3 does not divide n_embd 16"),
        (Nano(True).checkpoint(), ["--n_head", "4"], "its own files say n_head 2, but here it is 4"),
        (Book().state_dict(), ["--n_head", "2"], "no tokenizer is known for its vocabulary of 8192: give --tokenizer"),
        (Book().state_dict(), ["--n_head", "2", "--label_names", "a", "b"], "has no classifier's head"),
        (Book(labels=2).state_dict(), ["--n_head", "2", "--label_names", "a"], "has a head of 2 labels: give --label"),
        (Book(labels=2).state_dict(), ["--n_head", "2", "--label_names", "a", "a"], "has a head of 2 labels"),
        (Book(labels=1).state_dict(), ["--n_head", "2"], "a classifier needs at least 2 labels"),
        (Book(), [], "is refused for safety: it holds more than tensors"),
        (torch.ones(2), [], "holds a Tensor: save the model's state_dict()"),
        (b"not weights", [], "is refused for safety: it holds more than tensors and plain values, or is no PyTorch"),
        (b"hello", [], "cannot be read"),
        (b"", [], "cannot be read"),
    ],
)
def test_bad_sources_and_options_end_in_one_line(content, options, message, tmp_path, run_here):
    source = tmp_path / "weights.pt"
    source.write_bytes(content) if isinstance(content, bytes) else torch.save(content, source)
    result = run_here([*SCRIPT, "--source", source, "--output_dir", tmp_path / "out", *options])
    assert_one_line(result, message)
    assert not (tmp_path / "out").exists()


class Unsafe:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_is_run(tmp_path):
    torch.save({**Book().state_dict(), "more": Unsafe(tmp_path / "ran")}, tmp_path / "weights.pt")
    with pytest.raises(RecipeError, match="is refused for safety"):
        read_source(tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()


def test_a_source_that_is_none_or_needs_nothing_is_refused(tmp_path, run_here):
    def refused(source, output_dir, message):
        assert_one_line(run_here([*SCRIPT, "--source", source, "--output_dir", output_dir]), message)

    refused(tmp_path / "nothing", tmp_path / "out", "nothing does not exist")
    refused(tiny_folder(), tmp_path / "out", "needs no conversion: train.py takes it")
    (tmp_path / "full").mkdir()
    refused(tmp_path / "full", tmp_path / "out", "0 files of PyTorch weights, and no TensorFlow checkpoint")
    (tmp_path / "full" / "a.txt").touch()
    refused(OPENAI, tmp_path / "full", "is not empty: give a new folder")


def test_gpt2s_tokenizer_that_cannot_be_had_is_asked_for(tmp_path, run_here):
    model = GPT2Model(GPT2Config(n_layer=1, n_head=2, n_embd=4, n_positions=8))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    words = ["--source", tmp_path / "weights.pt", "--output_dir", tmp_path / "out", "--n_head", "2"]
    assert_one_line(
        run_here([*SCRIPT, *words]), "openai-community/gpt2 cannot be had here: give its folder as --tokenizer"
    )


@pytest.mark.parametrize("kind", ["openai", "file", "folder", "bin"])
def test_training_names_the_command(kind, tmp_path, run_here):
    source = tmp_path / "my gpt2"
    if kind == "openai":
        shutil.copytree(OPENAI, source)
    else:
        source.mkdir()
        torch.save(Book().state_dict(), source / "pytorch_model.bin")
        source = source / "pytorch_model.bin" if kind == "file" else source
    if kind == "bin":
        GPT2Config().save_pretrained(source)
    make_texts(60, ["sport", "medicine"]).to_csv(tmp_path / "my.csv", index=False)
    shutil.copy(NANO / "tokenizer.json", tmp_path)
    words = ["--model_name_or_path", source, "--train_file", tmp_path / "my.csv", "--output_dir", tmp_path / "run"]
    if kind == "bin":
        with pytest.raises(RecipeError) as caught:
            GPT2LastTokenClassifier.from_pretrained(source)
        line = str(caught.value)
    else:
        result = run_here(["python", ROOT / "scripts" / "train.py", *words])
        assert result.returncode == 2
        line = result.stderr.strip().splitlines()[-1]
    assert f"convert them: python scripts/convert_weights.py --source '{source}' --output_dir " in line

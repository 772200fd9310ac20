"""Conversion (optional): GPT-2 weights as people have them, for a folder that `save_pretrained` would have written.

It reads OpenAI's TensorFlow checkpoints, and PyTorch files with the names of transformers, of nanoGPT, or of GPTModel in
"Build a Large Language Model (From Scratch)". Every tensor is placed by its name and shape: none is left over or missing.
"""

import json
import pickle
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerBase

from recipe.atomic import write_files
from recipe.errors import RecipeError, as_recipe_error
from recipe.model.classifier import GPT2LastTokenClassifier
from recipe.model.export import save_classifier
from recipe.model.loading import PYTORCH_ENDINGS, load_config, pytorch_files
from recipe.model.tf_checkpoint import read_tensors

GPT2_TOKENIZER = "openai-community/gpt2"
GPT2_VOCABULARIES = (50257, 50304)  # GPT-2's, and as nanoGPT pads it to a multiple of 64
GPT2_HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # by n_embd: 124M to 1558M
CONTAINERS = ("model_state_dict", "model", "state_dict")  # where a file holds the weights beside other things
MASKS = r"h\.\d+\.attn\.(masked_)?bias|trf_blocks\.\d+\.att\.mask"  # causal masks: no weights

STATED_SIZES = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "block_size": "n_positions",
}  # OpenAI's, nanoGPT's names

# Names as patterns, and GPT2Model's in their place. The first are prefixes of torch.compile, several GPUs, a class with a head.
PREFIXES = {r"(?:_orig_mod\.|module\.|transformer\.)+(.+)": r"\1"}
OPENAI_NAMES = {
    r"model/(wte|wpe)": r"\1.weight",
    r"model/ln_f/g": "ln_f.weight",
    r"model/ln_f/b": "ln_f.bias",
    r"model/h(\d+)/(ln_[12])/g": r"h.\1.\2.weight",
    r"model/h(\d+)/(ln_[12])/b": r"h.\1.\2.bias",
    r"model/h(\d+)/(attn|mlp)/(\w+)/w": r"h.\1.\2.\3.weight",
    r"model/h(\d+)/(attn|mlp)/(\w+)/b": r"h.\1.\2.\3.bias",
}
BOOK_NAMES = {
    r"tok_emb\.weight": "wte.weight",
    r"pos_emb\.weight": "wpe.weight",
    r"trf_blocks\.(\d+)\.norm([12])\.scale": r"h.\1.ln_\2.weight",
    r"trf_blocks\.(\d+)\.norm([12])\.shift": r"h.\1.ln_\2.bias",
    r"trf_blocks\.(\d+)\.att\.out_proj\.(weight|bias)": r"h.\1.attn.c_proj.\2",
    r"trf_blocks\.(\d+)\.ff\.layers\.0\.(weight|bias)": r"h.\1.mlp.c_fc.\2",
    r"trf_blocks\.(\d+)\.ff\.layers\.2\.(weight|bias)": r"h.\1.mlp.c_proj.\2",
    r"final_norm\.scale": "ln_f.weight",
    r"final_norm\.shift": "ln_f.bias",
    r"out_head\.(weight|bias)": r"score.\1",
}
BOOK_QUERY = r"trf_blocks\.(\d+)\.att\.W_query\.(weight|bias)"
LINEAR = r"h\.\d+\.(attn|mlp)\.(c_attn|c_proj|c_fc)\.weight"  # nn.Linear holds [out, in], GPT2Model [in, out]


@dataclass
class Source:
    """Weights, with GPT2Model's names and layout where these are known, and what else their files tell."""

    path: Path
    kind: str
    tensors: dict[str, torch.Tensor]
    stated: dict[str, Any] = field(default_factory=dict)  # fields of the config that its own files name
    config: GPT2Config | None = None
    activation: str = "gelu_new"
    zeros: str = ""  # a pattern: parameters that are zero if no tensor has such a name
    notes: list[str] = field(default_factory=list)


def read_source(path: Path) -> Source:
    """Read weights of any kind, which is recognized by what the files hold.

    Args:
        path: a file, or a folder with OpenAI's files, pytorch_model.bin, or one PyTorch file.

    Raises:
        RecipeError: no such file, one that cannot be read without unpickling, or weights of another model.
    """
    with as_recipe_error((OSError, ValueError), f"source {str(path)[:200]!r} cannot be read", "check the path"):
        if not path.exists():
            raise RecipeError(f"source {path} does not exist: give a folder or a file of weights")
        folder = path if path.is_dir() else path.parent
        if path.suffix not in PYTORCH_ENDINGS and (indexes := sorted(folder.glob("*.index"))):
            return read_openai(folder, indexes)
        saved = all((folder / name).is_file() for name in ("model.safetensors", "config.json"))
        if saved and (path.is_dir() or path.name == "model.safetensors"):
            raise RecipeError(f"{folder} needs no conversion: train.py takes it as --model_name_or_path")
        if path.is_dir():
            path = choose_file(folder)
    return read_pytorch(path)


def choose_file(folder: Path) -> Path:
    """Return the file of PyTorch weights in a folder."""
    files = pytorch_files(folder)
    if (folder / "pytorch_model.bin") in files:
        return folder / "pytorch_model.bin"
    if len(files) != 1:
        found = f"{len(files)} files of PyTorch weights, and no TensorFlow checkpoint (*.index)"
        raise RecipeError(f"source {folder} has {found}: give the file that holds the weights")
    return files[0]


def read_openai(folder: Path, indexes: list[Path]) -> Source:
    """Read a checkpoint that TensorFlow wrote, with OpenAI's names; its file `checkpoint` names the latest of several."""
    named = folder / "checkpoint"
    latest = re.search(r'^model_checkpoint_path: "(?:.*/)?(.+)"$', named.read_text() if named.is_file() else "", re.M)
    prefix = folder / latest[1] if latest else indexes[0].with_suffix("")
    if prefix.with_name(f"{prefix.name}.index") not in indexes or not (latest or len(indexes) == 1):
        raise RecipeError(f"{folder}: {len(indexes)} checkpoints, and no file `checkpoint` that names one of them")
    hparams = folder / "hparams.json"
    with as_recipe_error((OSError, ValueError, TypeError), f"{hparams} cannot be read", "download it again"):
        stated = stated_sizes(dict(json.loads(hparams.read_text())) if hparams.is_file() else None)
    arrays = read_tensors(prefix)
    tensors = rename({name: torch.from_numpy(array) for name, array in arrays.items()}, OPENAI_NAMES)
    for name, tensor in tensors.items():
        if re.fullmatch(LINEAR, name) and tensor.dim() == 3:
            tensors[name] = tensor.squeeze(0)  # [1, in, out]: a convolution over one token
    return Source(folder, "OpenAI's TensorFlow checkpoint, checksums verified", tensors, stated)


def read_pytorch(path: Path) -> Source:
    """Read a state dict, alone or beside other things in a file, and tell by its names whose it is."""
    loaded = load_safely(path)
    contents = next((loaded[key] for key in CONTAINERS if isinstance(loaded.get(key), dict)), loaded)
    tensors = rename(contents, PREFIXES)
    if others := [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise RecipeError(f"{path}: {others[0]} is no tensor: save the model's state_dict()")
    tensors = {name: value for name, value in tensors.items() if not re.fullmatch(MASKS, name)}
    if "tok_emb.weight" in tensors:
        return read_book(path, tensors)
    first = tensors.get("h.0.attn.c_attn.weight")
    if first is None or "wte.weight" not in tensors:
        names = ", ".join(list(tensors)[:3])
        raise RecipeError(f"{path}: these are not the weights of a GPT-2 ({names} ...): see --help for what is read")
    if first.dim() == 2 and first.shape[0] == 3 * first.shape[1]:
        return read_nanogpt(path, tensors, loaded.get("model_args"))
    config_file = path.with_name("config.json")
    config = load_config(str(path.parent)) if path.name == "pytorch_model.bin" and config_file.is_file() else None
    kind = "a PyTorch state dict with transformers' names"
    return Source(path, kind, tensors, config=config)


def load_safely(path: Path) -> dict[str, Any]:
    """Load what torch.save wrote, tensors and plain values alone: unpickling anything else can run a stranger's code."""
    with as_recipe_error(Exception, f"source {path} cannot be read", "copy it again"):  # each library raises its own
        try:
            loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            other = "it holds more than tensors and plain values, or is no PyTorch file"
            raise RecipeError(f"source {path} is refused for safety: {other}: save the model's state_dict()") from error
    if not isinstance(loaded, dict):
        raise RecipeError(f"source {path} holds a {type(loaded).__name__}: save the model's state_dict()")
    return loaded


def read_nanogpt(path: Path, tensors: dict[str, torch.Tensor], arguments: object) -> Source:
    """Read nanoGPT's: transformers' names, matrices of nn.Linear, no biases if so configured, the exact GELU.

    Its vocabulary stays as it is, 50,304 by default: the rows after GPT-2's 50,257 are never looked up.
    """
    notes = ["activation: the exact GELU, as in nanoGPT since June 2023; GPT-2's own is gelu_new"]
    more = {"activation": "gelu", "zeros": r".*\.bias", "notes": notes}
    return Source(path, "a nanoGPT checkpoint", transpose(tensors), stated_sizes(arguments), **more)


def read_book(path: Path, tensors: dict[str, torch.Tensor]) -> Source:
    """Read those of the book's GPTModel: its three attention matrices become one, and its head, if smaller, a classifier's."""
    for name in list(tensors):
        if found := re.fullmatch(BOOK_QUERY, name):
            names = [name.replace("W_query", part) for part in ("W_query", "W_key", "W_value")]
            if len({tensors[part].shape if part in tensors else None for part in names}) == 1:
                tensors[f"h.{found[1]}.attn.c_attn.{found[2]}"] = torch.cat([tensors.pop(part) for part in names])
    tensors = transpose(rename(tensors, BOOK_NAMES))
    notes, head = [], tensors.get("score.weight")
    if head is not None and head.shape == tensors["wte.weight"].shape:
        tensors["lm_head.weight"] = tensors.pop("score.weight")
    elif head is not None:
        notes = ["the book pads texts and reads the last position, this classifier the text's last token: measure it"]
    kind = "a state dict of GPTModel, Build a Large Language Model (From Scratch)"
    return Source(path, kind, tensors, zeros=r"h\.\d+\.attn\.c_attn\.bias", notes=notes)


def rename(tensors: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return the tensors under other names, by patterns; those that no pattern matches keep theirs."""
    renamed = {}
    for name, tensor in tensors.items():
        matches = (match.expand(new) for old, new in names.items() if (match := re.fullmatch(old, str(name))))
        found = next(matches, str(name))
        if found in renamed:
            raise RecipeError(f"{name} stands for {found}, which is there already: save the model's state_dict()")
        renamed[found] = tensor
    return renamed


def stated_sizes(fields: object) -> dict[str, Any]:
    """Return the sizes that a source's own files name, under GPT2Config's names."""
    named = fields.items() if isinstance(fields, dict) else ()
    sizes = {STATED_SIZES.get(name, name): value for name, value in named}
    wanted = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    return {name: sizes[name] for name in wanted if sizes.get(name) is not None}


def transpose(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with the blocks' matrices as [in, out]."""
    return {
        name: tensor.T if re.fullmatch(LINEAR, name) and tensor.dim() == 2 else tensor
        for name, tensor in tensors.items()
    }


def make_config(source: Source, n_head: int | None = None, label_names: Sequence[str] | None = None) -> GPT2Config:
    """Return the config of the weights, sizes read off the tensors; with a classifier's head, its labels too.

    Raises:
        RecipeError: no sizes of a GPT-2, an unknown number of heads, or label names that the head has not.
    """
    shapes = {name: list(tensor.shape) for name, tensor in source.tensors.items()}
    tokens, positions = shapes.get("wte.weight", []), shapes.get("wpe.weight", [])
    if len(tokens) != 2 or len(positions) != 2:
        raise RecipeError(f"{source.path}: its embeddings are {tokens} and {positions}: not those of a GPT-2")
    config = source.config
    if config is None:
        blocks = {found[1] for name in shapes if (found := re.match(r"h\.(\d+)\.", name))}
        sizes = {"vocab_size": tokens[0], "n_positions": positions[0], "n_embd": tokens[1], "n_layer": len(blocks)}
        sizes["n_head"] = choose_heads(source, tokens[1], n_head)
        for name, size in source.stated.items():
            if size != sizes[name]:
                raise RecipeError(f"{source.path}: its own files say {name} {size}, but here it is {sizes[name]}")
        inner = shapes.get("h.0.mlp.c_fc.weight", [])[1:]  # usually 4 n_embd, which None stands for
        sizes["n_inner"] = inner[0] if inner and inner[0] != 4 * tokens[1] else None
        special = dict.fromkeys(("bos_token_id", "eos_token_id"))  # the tokenizer's, later
        config = GPT2Config(**sizes, **special, activation_function=source.activation)
    elif n_head not in (None, config.n_head):
        raise RecipeError(f"{source.path}: config.json says n_head {config.n_head}: leave --n_head out")
    labels = (shapes.get("score.weight") or [0])[0]
    if label_names is not None and not len(label_names) == len(set(label_names)) == labels:
        head = f"a head of {labels} labels" if labels else "no classifier's head"
        raise RecipeError(f"{source.path} has {head}: give --label_names one name for each, or leave it out")
    if label_names is not None or labels not in (0, config.num_labels):
        names = label_names or [f"LABEL_{i}" for i in range(labels)]
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    return config


def choose_heads(source: Source, width: int, given: int | None) -> int:
    """Return the number of attention heads, which the shapes of weights do not tell."""
    stated = source.stated.get("n_head")
    heads = next((heads for heads in (given, stated, GPT2_HEADS.get(width)) if heads is not None), None)
    if heads is None:
        raise RecipeError(f"{source.path}: n_embd {width} does not tell the number of attention heads: give --n_head")
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise RecipeError(
            f"{source.path}: n_head {heads} does not divide n_embd {width}: give the model's own --n_head"
        )
    if given is None and stated is None:
        source.notes.append(f"n_head is taken to be {heads}, GPT-2's at n_embd {width}: if it differs, give --n_head")
    return heads


def build_model(source: Source, config: GPT2Config) -> GPT2Model | GPT2LastTokenClassifier:
    """Return the model with the source's weights in float32: a classifier if they have a classifier's head.

    Raises:
        RecipeError: a tensor is left over, missing, or of another shape.
    """
    tensors = dict(source.tensors)
    with torch.device("meta"):  # no time spent on random weights that others replace
        model = GPT2LastTokenClassifier(config) if "score.weight" in tensors else GPT2Model(config)
    places = {name.removeprefix("transformer."): name for name in model.state_dict()}
    shapes = {name: model.state_dict()[place].shape for name, place in places.items()}
    lm_head = tensors.pop("lm_head.weight", None)
    if lm_head is not None and not torch.equal(lm_head.float(), tensors["wte.weight"].float()):
        source.notes.append("left out: a language model's head of its own, which a classifier has no use for")
    for pattern in (source.zeros, r"score\.bias"):
        zeros = [name for name in places if re.fullmatch(pattern, name)]
        if not any(name in tensors for name in zeros):
            tensors |= {name: torch.zeros(shapes[name]) for name in zeros}
    others = {"is no weight of a GPT-2": tensors.keys() - places, "is missing": places.keys() - tensors}
    for problem, names in others.items():
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise RecipeError(f"{source.path}: {min(names)} {problem}{more}: save the plain, complete model's weights")
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name] or not tensor.is_floating_point():
            found = f"{name} is {list(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
            raise RecipeError(f"{source.path}: {found}, but a GPT-2 of its size has {list(shapes[name])} of floats")
    weights = {places[name]: tensor.float().contiguous() for name, tensor in tensors.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()


def find_tokenizer(source: Source, vocabulary: int, temporary: Path) -> str:
    """Return the folder or hub name of the weights' tokenizer: their own or, for GPT-2's vocabulary, GPT-2's.

    Args:
        temporary: a folder for OpenAI's encoder.json and vocab.bpe under transformers' names.
    """
    folder = source.path if source.path.is_dir() else source.path.parent
    openai = [folder / name for name in ("encoder.json", "vocab.bpe")]
    if source.path.is_dir() and all(file.is_file() for file in openai):
        shutil.copyfile(openai[0], temporary / "vocab.json")
        shutil.copyfile(openai[1], temporary / "merges.txt")
        (temporary / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
        return str(temporary)
    if source.config is not None and any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return str(folder)
    if vocabulary not in GPT2_VOCABULARIES:
        raise RecipeError(f"{source.path}: no tokenizer is known for its vocabulary of {vocabulary}: give --tokenizer")
    return GPT2_TOKENIZER


def save_converted(
    model: GPT2Model | GPT2LastTokenClassifier, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Save model and tokenizer: a GPT2Model, or the stock form of a classifier."""
    if isinstance(model, GPT2LastTokenClassifier):
        return save_classifier(model, tokenizer, folder)

    def write(temporary: Path) -> None:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)

    write_files(folder, write)

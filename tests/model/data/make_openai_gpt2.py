"""Write openai_gpt2/, a tiny GPT-2 as OpenAI published theirs, by TensorFlow itself; needs tensorflow-cpu (2.21 made it).

    python tests/model/data/make_openai_gpt2.py

The variables have OpenAI's names and shapes, and `Saver` writes them. logits.npy is computed from these variables in
TensorFlow: what a converted model has to agree with.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
FOLDER = Path(__file__).parent / "openai_gpt2"
SIZES = {"n_vocab": 300, "n_ctx": 24, "n_embd": 8, "n_head": 2, "n_layer": 2}
BYTES = [chr(b) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174 else None for b in range(256)]
MERGES = (
    "Ġ t|h e|i n|r e|o n|Ġt he|e r|Ġ s|a t|Ġ a|e n|o r|Ġ w|e s|a n|Ġ f|o u|i t|Ġ p|i s|a r|a l|Ġ b|Ġ o|Ġ m|Ġ c|Ġ d|e d"
)
MERGES += "|in g|Ġo f|Ġ h|l e|r o|a s|Ġa n|i c|o m|Ġan d|Ġ in|Ġt o|i on|e l|l l"


def shapes(width: int, layers: int) -> dict[str, list[int]]:
    """Return each variable's shape by its name."""
    found = {"wte": [SIZES["n_vocab"], width], "wpe": [SIZES["n_ctx"], width]}
    norms = ["ln_f"] + [f"h{i}/{norm}" for i in range(layers) for norm in ("ln_1", "ln_2")]
    found |= {f"{norm}/{letter}": [width] for norm in norms for letter in "gb"}
    sizes = {"attn/c_attn": (1, 3), "attn/c_proj": (1, 1), "mlp/c_fc": (1, 4), "mlp/c_proj": (4, 1)}
    for i in range(layers):
        for name, (rows, columns) in sizes.items():
            found[f"h{i}/{name}/w"] = [1, rows * width, columns * width]
            found[f"h{i}/{name}/b"] = [columns * width]
    return found


def forward(v: dict[str, tf.Tensor], ids: np.ndarray) -> tf.Tensor:
    """Compute logits [B, T, n_vocab] by the formulas of Radford et al. (2019)."""
    (batch, length), heads = ids.shape, SIZES["n_head"]
    allowed = np.tril(np.ones((length, length), dtype=bool))

    def norm(x, name):
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        scaled = centred / tf.sqrt(tf.reduce_mean(centred**2, -1, keepdims=True) + 1e-5)
        return scaled * v[f"{name}/g"] + v[f"{name}/b"]

    def linear(x, name):
        return tf.einsum("bti,io->bto", x, v[f"{name}/w"][0]) + v[f"{name}/b"]

    x = tf.gather(v["wte"], ids) + v["wpe"][:length]
    for i in range(SIZES["n_layer"]):
        query, key, value = (
            tf.reshape(part, [batch, length, heads, -1])
            for part in tf.split(linear(norm(x, f"h{i}/ln_1"), f"h{i}/attn/c_attn"), 3, axis=-1)
        )
        scores = tf.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(SIZES["n_embd"] // heads)
        weights = tf.nn.softmax(tf.where(allowed, scores, -1e10))
        mixed = tf.reshape(tf.einsum("bhqk,bkhd->bqhd", weights, value), [batch, length, -1])
        x += linear(mixed, f"h{i}/attn/c_proj")
        inner = tf.nn.gelu(linear(norm(x, f"h{i}/ln_2"), f"h{i}/mlp/c_fc"), approximate=True)
        x += linear(inner, f"h{i}/mlp/c_proj")
    return tf.einsum("btd,vd->btv", norm(x, "ln_f"), v["wte"])


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    others = iter(range(256, 512))
    letters = [letter or chr(next(others)) for letter in BYTES]
    words = [*letters, *(merge.replace(" ", "") for merge in MERGES.split("|")), "<|endoftext|>"]
    assert len(words) == SIZES["n_vocab"]
    (FOLDER / "encoder.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (FOLDER / "vocab.bpe").write_text("#version: 0.2\n" + MERGES.replace("|", "\n") + "\n", encoding="utf-8")
    (FOLDER / "hparams.json").write_text(json.dumps(SIZES, indent=2))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, SIZES["n_vocab"], (2, 10))
    with tf1.Graph().as_default(), tf1.Session() as session:
        with tf1.variable_scope("model"):
            variables = {}
            for name, shape in shapes(SIZES["n_embd"], SIZES["n_layer"]).items():
                start = rng.normal(1 if name.endswith("/g") else 0, 0.4, shape).astype("float32")
                variables[name] = tf1.get_variable(name, initializer=start)
        session.run(tf1.global_variables_initializer())
        np.save(FOLDER / "input_ids.npy", ids)
        np.save(FOLDER / "logits.npy", session.run(forward(variables, ids)))
        # The graph (.meta), which OpenAI's folders have too, is not read.
        tf1.train.Saver(save_relative_paths=True).save(session, str(FOLDER / "model.ckpt"), write_meta_graph=False)


if __name__ == "__main__":
    main()

"""Frozen models for tests of the feature cache, transformers' states to compare with, and damage to its files."""

import torch
from conftest import tiny_model
from transformers import GPT2Model

from recipe import freeze_except, last_blocks

SEQUENCES = [[1, 2, 3], [4], [*range(39), 50], [4], [1, 2], list(range(40))]  # two differ in their last token alone


def frozen_model(patterns=None, **config):
    model = tiny_model(**config)
    freeze_except(model, patterns or last_blocks(model.config, 1))
    return model


def reference_states(model, ids, depth):
    """transformers' own hidden states: index `depth` is what enters block `depth`."""
    stock = GPT2Model(model.config).eval()
    stock.load_state_dict(model.transformer.state_dict())
    with torch.no_grad():
        return stock(torch.tensor([ids]), output_hidden_states=True).hidden_states[depth][0]


def flip_at(path, place):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


def damage_one_bit(path):
    flip_at(path, 0.5)

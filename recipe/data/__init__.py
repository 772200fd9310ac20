"""Texts and labels: read, checked, split without leaks, tokenized.

Everything between a user's files and the tokenized splits that a trainer takes; `dataset.load_splits` is the way in.
"""

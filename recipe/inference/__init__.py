"""Inference: a saved classifier applied to texts, and the files that its predictions are written to."""

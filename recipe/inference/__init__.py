"""A saved classifier applied to new texts, and the files that its predictions are written to."""

"""The variants that benchmark.py compares: transformers alone, and the recipe."""

PEERS = {
    "a": "Trainer + GPT2ForSequenceClassification, padded to the longest text",
    "b": "the same, padded to the longest of each batch",
    "c": "the same, tuned: grouped by length, large evaluation batches, bf16 where native",
}
OURS = {"d": "our plain path", "e": "our fast path, float32", "f": "our fast path, bfloat16 trunk"}

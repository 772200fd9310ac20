"""The classifier: GPT-2 with a head on the last token, cut into a frozen trunk and a trained tail.

Loading, the parameter-name filter, and the stock checkpoint that every Hugging Face tool reads.
"""

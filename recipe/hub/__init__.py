"""The Hub: a run's model card, and its upload.

model_card writes README.md from what a run leaves in its folder; publish sends the files that others need, and no more.
"""

"""Trainer for the classifier: the frozen trunk runs once per text, the tail trains on what it gave.

Also what makes a run safe: complete checkpoints, exact resuming, SIGTERM.
"""

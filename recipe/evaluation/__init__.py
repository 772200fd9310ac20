"""Evaluation: how good a classifier is, and how sure that is (metrics, intervals, baselines, calibration, thresholds).

Optional for training: nothing in the model or training rooms imports it.
"""

"""Evaluation: how good a classifier is, and how sure that is (metrics, intervals, baselines, calibration, thresholds).

Optional for training: not imported by model, and by training for its metrics alone.
"""

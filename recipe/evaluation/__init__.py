"""Evaluation: how good a classifier is, and how sure that is (metrics, intervals, baselines, calibration, thresholds).

Training imports its metrics alone; the model imports nothing of it.
"""

"""Evaluation: how good a classifier is, and how sure that is (metrics, intervals, baselines, calibration, thresholds).

Not imported by model; training imports its metrics alone.
"""

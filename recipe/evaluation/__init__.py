"""Is the classifier good, and how sure is that: metrics, intervals, baselines, calibration, thresholds.

Optional for training: nothing in the model or training rooms imports it.
"""

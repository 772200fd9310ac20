"""Experiments: which recipe is best for some texts, answered by many short trainings on one feature cache.

Optional: not imported by the other packages.
"""

"""Experiments: which recipe is best for some texts, answered by many short trainings on one feature cache.

Optional: no other room imports it.
"""

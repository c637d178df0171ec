"""Measurements: each module has `run()`, which measures a figure and its reference in the same run."""

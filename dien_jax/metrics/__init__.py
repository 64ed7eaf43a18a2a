"""Metrics of scored examples (AUC, GAUC, log loss), their intervals, and diagnostics.

Plain NumPy functions of labels and scores; nothing here knows datasets, models or runs.
"""

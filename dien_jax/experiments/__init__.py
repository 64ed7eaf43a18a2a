"""Experiments over several runs: comparisons, searches of settings, and the paper's tables."""

"""Training: the run from its first step to its result, its progress and its curves."""

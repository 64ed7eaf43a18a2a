"""Datasets: schema, dataset folders, vocabularies, and the loader that makes padded batches.

Plain NumPy: Flax, Optax and Orbax do not enter, nor does anything that knows the model.
"""

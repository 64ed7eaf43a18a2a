"""The interest model and the Flax modules that it is assembled from.

Modules own parameters; the recurrences themselves are computed by :mod:`dien_kernels`. Nothing
here knows optimizers, datasets on disk or run folders.
"""

"""Preparation of dataset folders: sources of logs, file readers, and the pipeline.

Each module of :mod:`dien_jax.preparation.sources` has options and a function ``prepare``:

>>> import tempfile
>>> from pathlib import Path
>>> from dien_jax.preparation.sources import synthetic
>>> out = Path(tempfile.mkdtemp()) / "data"
>>> options = synthetic.SyntheticOptions(out=out, users=40)
>>> synthetic.prepare(options)[0]
'40 simulated users with 640 events; examples: 128 for train, 16 for valid, 16 for test'
"""

from dien_jax.preparation import sources
from dien_jax.preparation.own_log import make_dataset
from dien_jax.preparation.writer import DatasetWriter

__all__ = ["DatasetWriter", "make_dataset", "sources"]

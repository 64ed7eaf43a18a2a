"""Run a module with kernels that are broken: ``python broken_kernels.py -m MODULE [ARGUMENT ...]``.

``mosaic_tpu`` deviates, ``triton`` ends the process and ``mosaic_gpu`` never returns.
"""

import dataclasses
import os
import runpy
import signal
import sys
import time
from typing import Any

import jax
from dien_kernels import api
from dien_kernels.choice import backend


def broken(name: Any) -> Any:
    """Return the backend of a kernel, with its fault."""
    if name == "triton":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "mosaic_gpu":
        time.sleep(600)
    right: Any = backend(name)

    def forward(*arguments: Any) -> Any:
        states, kept = right.forward(*arguments)
        return jax.tree.map(lambda array: 1.5 * array, states), kept

    return dataclasses.replace(right, forward=forward)


if __name__ == "__main__":
    api.backend = broken  # type: ignore[attr-defined]
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""Settings of a run: dataclasses that check themselves, named presets and preset files.

Names below are imported when they are first used.
"""

from typing import TYPE_CHECKING

from dien_jax._lazy import lazy_names

if TYPE_CHECKING:
    from dien_jax.config.presets import PRESETS, preset
    from dien_jax.config.settings import (
        Config,
        DistributedConfig,
        MeshConfig,
        ModelConfig,
        OptimConfig,
        TrainConfig,
    )

__all__ = [
    "PRESETS",
    "Config",
    "DistributedConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "preset",
]

__getattr__, __dir__ = lazy_names(__name__, __file__)

"""Settings of a run: dataclasses that check themselves, named presets and preset files.

Nothing here reads data, compiles or knows command-line flags.
"""

from dien_jax.config.distributed import DistributedConfig
from dien_jax.config.presets import PRESETS, preset
from dien_jax.config.settings import Config, MeshConfig, ModelConfig, OptimConfig, TrainConfig

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

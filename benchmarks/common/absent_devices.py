"""Compile for a TPU v5e or an NVIDIA H100 that is not attached.

libtpu compiles without a TPU. XLA's CUDA compiler needs a description of the GPU, JAX's CUDA plugin
and ``ptxas``, but neither CUDA libraries nor a driver. Programs are compiled and not executed.
"""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Callable
from typing import Any

import jax
from dien_kernels import Device, assume
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, make_single_device_sharding

DEVICES = {
    "tpu-v5e": Device("tpu", "TPU v5 lite"),
    "h100": Device("gpu", "NVIDIA H100 80GB HBM3", (9, 0)),
}
CUDA_PACKAGES = "jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12"
"""Required packages, the first two in JAX's version; install them with ``pip --no-deps``."""
TPU_ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Environment variables that let libtpu start without a TPU."""
H100_CORES = 132
H100 = f"""
gpu_device_info {{
  cuda_compute_capability {{ major: 9 minor: 0 }}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {H100_CORES} fpus_per_core: 128 clock_rate_ghz: 1.98
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {227 * 2**10}
  shared_memory_per_core: {228 * 2**10} l2_cache_size: {50 * 2**20}
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{DEVICES["h100"].kind}"
"""
"""XLA's ``GpuTargetConfigProto``, with figures of NVIDIA's data sheet."""

_LAUNCHES = {
    "tpu": re.compile(
        r'%(\w+?)(?:\.[\d.]+)? = [^\n]* custom-call\([^\n]*custom_call_target="tpu_custom_call"'
    ),
    "gpu": re.compile(
        r'custom_call_target="(?:__gpu\$xla\.gpu\.triton|mosaic_gpu\w*)"'
        r'[^\n]*?op_name="[^"\n]*?(\w+)/(?:pallas_call|mpmd_map)"'
    ),
}


@functools.cache
def absent_device(target: str) -> Any:
    """Return the absent device, for the sharding of arguments; restrict JAX to CPUs.

    Raises:
      ModuleNotFoundError: its compiler is not installed.
    """
    # JAX must not search for the device. It chooses devices later; compilers read the environment
    # when they start.
    jax.config.update("jax_platforms", "cpu")
    if DEVICES[target].platform == "tpu":
        if importlib.util.find_spec("libtpu") is None:
            raise ModuleNotFoundError(
                "compiling for an absent TPU needs its compiler: pip install libtpu"
            )
        os.environ.update(TPU_ENVIRONMENT)
        return topologies.get_topology_desc("v5e:2x2", platform="tpu").devices[0]
    # Without this the plugin refuses to start without CUDA's libraries. Only execution needs them.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        described = topologies.get_topology_desc(
            target, platform="cuda", topology="1x1x1", target_config=H100
        )
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ModuleNotFoundError(
            f"compiling for {target} needs JAX's CUDA plugin: pip install {CUDA_PACKAGES} "
            f"(in the version of jax, {jax.__version__})"
        ) from error
    return described.devices[0]


def compile_for(
    target: str, function: Callable, *arguments: Any
) -> tuple[jax.stages.Compiled, list[str]]:
    """Compile a function, jitted or not, for the shapes and dtypes of pytrees of arrays.

    Return the program, and the names of the Pallas kernels it calls; one in a loop counts once.
    """
    device, sharding = DEVICES[target], make_single_device_sharding(absent_device(target))

    def abstract(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
    with contextlib.ExitStack() as stack:
        # Kernels and Pallas choose instructions by these two.
        stack.enter_context(assume(device))
        if device.platform == "gpu":
            described = jax.sharding.AbstractDevice(device.kind, H100_CORES, "gpu")
            automatic = (AxisType.Auto,)
            mesh = AbstractMesh((1,), ("x",), axis_types=automatic, abstract_device=described)
            stack.enter_context(jax.sharding.use_abstract_mesh(mesh))
        program = jitted.lower(*jax.tree.map(abstract, arguments)).compile()
    return program, _LAUNCHES[device.platform].findall(program.as_text() or "")

"""Compile for NVIDIA GPUs that are not attached, and read the resources of the kernels.

XLA's CUDA compiler needs a description of the device, not the device. The compiled program is the
one that would run; it is not executed. Needs the CUDA plugin of JAX and ``ptxas``, no CUDA
libraries and no driver. Without a device, run it under ``JAX_PLATFORMS=cpu``.
"""

import contextlib
import dataclasses
import functools
import importlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, SingleDeviceSharding

Target = Literal["h100", "a100"]

PACKAGES = "jax-cuda12-plugin jax-cuda12-pjrt nvidia-cuda-nvcc-cu12"
"""Required packages, the first two in JAX's version; ``pip install --no-deps`` is enough."""


@dataclasses.dataclass(frozen=True)
class _Description:
    """A device in XLA's ``GpuTargetConfigProto``: fields that differ between targets."""

    kind: str
    capability: tuple[int, int]
    cores: int
    fpus_per_core: int
    clock_ghz: float
    l2_bytes: int
    shared_bytes_per_core: int
    shared_bytes_per_block: int
    memory_bytes: int
    memory_bytes_per_second: int

    def text(self) -> str:
        """Return the proto in text form."""
        major, minor = self.capability
        return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {self.cores} fpus_per_core: {self.fpus_per_core} clock_rate_ghz: {self.clock_ghz}
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {self.shared_bytes_per_block}
  shared_memory_per_core: {self.shared_bytes_per_core} l2_cache_size: {self.l2_bytes}
  memory_bandwidth: {self.memory_bytes_per_second} device_memory_size: {self.memory_bytes}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{self.kind}"
"""


_TARGETS: dict[Target, _Description] = {
    "h100": _Description(
        kind="NVIDIA H100 80GB HBM3",
        capability=(9, 0),
        cores=132,
        fpus_per_core=128,
        clock_ghz=1.98,
        l2_bytes=50 * 2**20,
        shared_bytes_per_core=228 * 2**10,
        shared_bytes_per_block=227 * 2**10,
        memory_bytes=84942979072,
        memory_bytes_per_second=3352320000000,
    ),
    "a100": _Description(
        kind="NVIDIA A100-SXM4-80GB",
        capability=(8, 0),
        cores=108,
        fpus_per_core=64,
        clock_ghz=1.41,
        l2_bytes=40 * 2**20,
        shared_bytes_per_core=164 * 2**10,
        shared_bytes_per_block=163 * 2**10,
        memory_bytes=85031714816,
        memory_bytes_per_second=2039000000000,
    ),
}


class Kernel(NamedTuple):
    """Resources of one kernel of a compiled program.

    Attributes:
      name: its entry in the machine code.
      registers: registers of a thread, at most 255.
      spilled_stores: bytes of a thread that are written to memory for lack of registers.
      spilled_loads: bytes that are read back.
      shared_bytes: shared memory of a block.
    """

    name: str
    registers: int
    spilled_stores: int
    spilled_loads: int
    shared_bytes: int


class Program(NamedTuple):
    """A program compiled for an absent device.

    Attributes:
      compiled: the result of ``jax.stages.Lowered.compile``.
      kernels: all in its machine code, XLA's own included; of those already in XLA's cache, only
        Mosaic's.
    """

    compiled: jax.stages.Compiled
    kernels: tuple[Kernel, ...]

    def launches(self) -> list[str]:
        """Return the names of the Pallas kernels that it calls; a call in a loop counts once."""
        return [name for name, _ in _launches(self.compiled)]


_LAUNCH = re.compile(
    r'custom_call_target="(?:__gpu\$xla\.gpu\.triton|mosaic_gpu\w*)"'
    r'[^\n]*?op_name="[^"\n]*?(?P<name>\w+)/(?:pallas_call|mpmd_map)"'
    r'(?:[^\n]*?kernel_hash = "(?P<hash>[^"\n]*)")?'
)


def _launches(compiled: jax.stages.Compiled) -> list[tuple[str, str]]:
    """Return the name of each launch, and a hash of its kernel if it is Mosaic's."""
    matches = _LAUNCH.finditer(compiled.as_text() or "")
    return [(launch["name"], launch["hash"] or "") for launch in matches]


_compiled: dict[str, Kernel] = {}
"""Mosaic's kernels by hash: each is compiled only once."""


def _with_known(compiled: jax.stages.Compiled, kernels: list[Kernel]) -> tuple[Kernel, ...]:
    """Return the kernels of a program and those that Mosaic compiled for an earlier one."""
    by_name = {kernel.name: kernel for kernel in kernels}
    for launched, kernel_hash in _launches(compiled):
        name = f"{launched}_mosaic_gpu_kernel"
        if kernel_hash and name in by_name:
            _compiled.setdefault(kernel_hash, by_name[name])
        elif kernel_hash in _compiled:
            by_name[name] = _compiled[kernel_hash]
    return tuple(by_name[name] for name in sorted(by_name))


@functools.cache
def device(target: Target) -> Any:
    """Return the absent device, for the sharding of arguments; see :func:`devices`."""
    return devices(target)[0]


@functools.cache
def devices(target: Target, count: int = 1) -> list[Any]:
    """Return absent devices of one machine.

    Raises:
      ValueError: for another target.
      ModuleNotFoundError: without JAX's CUDA plugin.
    """
    if target not in _TARGETS:
        raise ValueError(f"target: expected one of {tuple(_TARGETS)}, got {target!r}")
    # The plugin refuses to start without CUDA's libraries, which only execution needs.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        topology = topologies.get_topology_desc(
            target,
            platform="cuda",
            topology=f"1x1x{count}",
            target_config=_TARGETS[target].text(),
        )
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ModuleNotFoundError(
            f"compiling for {target} needs JAX's CUDA plugin: pip install {PACKAGES} "
            f"(in the version of jax, {jax.__version__})"
        ) from error
    return list(topology.devices)


def mesh(target: Target) -> AbstractMesh:
    """Return a mesh of the device to lower for: Pallas chooses instructions by it."""
    described = _TARGETS[target]
    abstract = jax.sharding.AbstractDevice(described.kind, described.cores, "gpu")
    return AbstractMesh((1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=abstract)


def compile_for(function: Callable[..., Any], *arguments: Any, target: Target) -> Program:
    """Compile ``function`` for the shapes and types of ``arguments``.

    Args:
      function: jitted or not.
      *arguments: trees of arrays or of ``jax.ShapeDtypeStruct``.
      target: the device.
    """
    absent = device(target)
    sharding = SingleDeviceSharding(absent)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments
    )
    with jax.sharding.use_abstract_mesh(mesh(target)):
        jitted = function if isinstance(function, jax.stages.Wrapped) else jax.jit(function)
        lowered = jitted.lower(*placed)
    # After lowering, which may import modules that set the same environment variables.
    with tempfile.TemporaryDirectory() as scratch, _dumped(Path(scratch)) as options:
        compiled = lowered.compile(compiler_options=options)
        return Program(compiled, _with_known(compiled, list(_kernels(Path(scratch)))))


def _ptxas() -> Path:
    """Return the assembler of NVIDIA's package, or the one on the path."""
    with contextlib.suppress(ModuleNotFoundError):
        for place in importlib.import_module("nvidia").__path__:
            for assembler in sorted(Path(place).glob("*/bin/ptxas")):
                return assembler
    on_path = shutil.which("ptxas")
    if on_path is None:
        raise ModuleNotFoundError(f"ptxas is not installed: pip install {PACKAGES}")
    return Path(on_path)


@contextlib.contextmanager
def _dumped(scratch: Path) -> Iterator[dict[str, Any]]:
    """Yield options that make XLA write the input of :func:`_kernels` to ``scratch``.

    XLA runs ``ptxas`` and discards its output: a wrapper script also writes it to a file. Mosaic
    GPU has its own assembler and its own dump, which also runs ``nvdisasm``: an empty script takes
    the place of that.
    """
    stand_in = scratch / "cuda" / "bin" / "ptxas"
    stand_in.parent.mkdir(parents=True)
    logs = scratch / "logs"
    logs.mkdir()
    stand_in.write_text(f"""#!/bin/sh
log=$(mktemp {shlex.quote(str(logs))}/XXXXXX)
{shlex.quote(str(_ptxas()))} -v "$@" 2>"$log"
code=$?
cat "$log" >&2
exit $code
""")
    disassembler = stand_in.with_name("nvdisasm")
    disassembler.write_text("#!/bin/sh\n")
    for program in (stand_in, disassembler):
        program.chmod(0o755)
    mosaic = scratch / "mosaic"
    mosaic.mkdir()
    variables = {"MOSAIC_GPU_DUMP_TO": str(mosaic), "MOSAIC_GPU_CUDA_ROOT": str(scratch / "cuda")}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield {
            "xla_gpu_cuda_data_dir": str(scratch / "cuda"),
            "xla_dump_to": str(scratch / "xla"),
        }
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)
_THUNK = re.compile(r"\] (\w+) grid: .* shared_memory: (\d+) bytes")
_MOSAIC_LAUNCH = re.compile(r"launch_func .*@(\w+) blocks.* dynamic_shared_memory_size %c(\d+)_i32")


def _kernels(scratch: Path) -> Iterator[Kernel]:
    """Yield every kernel once, ordered by name: XLA assembles some twice."""
    logs = list((scratch / "logs").iterdir())
    dynamic: dict[str, str] = {}  # shared memory requested at launch, which ptxas does not see
    for thunks in (scratch / "xla").glob("*thunk_sequence.txt"):
        dynamic |= _THUNK.findall(thunks.read_text())
    for log in (scratch / "mosaic").glob("*.ptxas"):
        logs.append(log)
        dynamic |= _MOSAIC_LAUNCH.findall(log.with_suffix(".mlir-passes.log").read_text())
    entries = {entry["name"]: entry for log in logs for entry in _ENTRY.finditer(log.read_text())}
    for name, entry in sorted(entries.items()):
        yield Kernel(
            name,
            int(entry["registers"]),
            int(entry["stores"]),
            int(entry["loads"]),
            int(entry["shared"] or 0) + int(dynamic.get(name, 0)),
        )

"""The parts of ``benchmarks.device``, the most informative first."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from benchmarks.common.timing import versions_of
from benchmarks.peers import PEERS

KERNELS_FIRST = 80
"""Time limit for the suite of one kernel, in seconds."""


class Part(NamedTuple):
    """One program, the name of its result file, and its time limit."""

    name: str
    module: str
    arguments: tuple[str, ...]
    seconds: float
    kernel: str | None = None
    """The part is skipped if this kernel has failed its suite."""
    suffix: str = "json"


ABOUT = Part("about", "benchmarks.on_device.about", (), 60)


def suite(kernel: str, *arguments: str) -> Part:
    """Return the part that compares a kernel with the oracle."""
    module = "benchmarks.on_device.kernel_suite"
    return Part(f"suite-{kernel}", module, (kernel, *arguments), KERNELS_FIRST, suffix="jsonl")


def plan(kernels: Sequence[str], blocked: Sequence[str]) -> list[Part]:
    """Return the parts for a device. Other packages that are installed are timed too.

    Args:
      kernels: kernels for the device, in the order that ``"auto"`` tries them.
      blocked: those of them that have block sizes.
    """
    torch = ("--peers",) if find_spec("torch") else ()
    others = ("--peers",) if len(versions_of(*PEERS)) > 1 else ()
    recurrence, step = "benchmarks.recurrence", "benchmarks.train_step"
    parts = [suite(kernel) for kernel in kernels]
    flags: tuple[str, ...]
    for kernel in [*kernels, "xla"]:
        flags = ("--implementations", kernel, "xla", "--cells", "augru", "--precision", "default")
        cases = ("--cases", "large_batch", "wide128", "paper", "--repeats", "10")
        beside, needed = (torch, None) if kernel == "xla" else ((), kernel)
        name = f"recurrence-{kernel}"
        parts.append(Part(name, recurrence, (*flags, *cases, *beside), 90, needed))
    for batch in (1024, 128, 8192):
        flags = ("--batch-size", str(batch), "--compute", "float32", "--repeats", "20", *others)
        parts.append(Part(f"step-{batch}-float32", step, flags, 75))
    for batch in (1024, 8192, 128):
        flags = ("--batch-size", str(batch), "--compute", "bfloat16", "--repeats", "20")
        parts.append(Part(f"step-{batch}-bfloat16", step, flags, 60))
    for kernel in blocked:
        sweep = "benchmarks.on_device.block_sizes"
        parts.append(Part(f"blocks-{kernel}", sweep, (kernel,), 90, kernel))
    parts.append(suite("xla"))
    for kernel in kernels:
        flags = ("--implementations", kernel, "xla", "--cells", "augru", "gru", "agru")
        cases = ("--cases", "large_batch", "paper", "ragged", "--repeats", "10")
        parts.append(Part(f"exact-{kernel}", recurrence, (*flags, *cases), 120, kernel))
    ranking = ("--candidates", "50", "500", "--histories", "50", "--repeats", "30")
    parts.append(Part("ranking", "benchmarks.ranking", ranking, 120))
    networks = ("--implementations", "xla", "--repeats", "10")
    parts.append(Part("networks", "benchmarks.networks", networks, 60))
    return parts


def rehearsal(kernels: Sequence[str]) -> list[Part]:
    """Return parts for any machine: each kernel's first cases in Pallas's interpreter."""
    cases = ("--interpreted", "--most", "2")
    return [suite(kernel, *cases)._replace(seconds=240) for kernel in kernels]


def described(ending: dict[str, Any] | None) -> str:
    """Return how a part ended, as text."""
    if ending is None:
        return "not run"
    return f"{ending['outcome']}, {ending['seconds']:.0f} s"

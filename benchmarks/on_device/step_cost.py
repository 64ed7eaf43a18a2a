"""Cost of a train step by XLA's account: operations, FLOPs, bytes, memory.

    python -m benchmarks.on_device.step_cost --json FILE [--batch-sizes 128 1024 8192]

``bound_ms`` is the least time that the FLOPs and the bytes take at the peaks of the device, where
they are known: the share of it that a measured step reaches is its share of the roofline. XLA
counts neither within a Pallas kernel.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common.cases import CATEGORIES, ITEMS, random_batch, schema_of, without_statistics
from benchmarks.common.report import make_parser, parse, report
from benchmarks.common.timing import surroundings
from dien_jax.config.presets import preset
from dien_jax.config.settings import Config
from dien_jax.data.tables import FeatureTables
from dien_jax.steps.negatives import make_sampler
from dien_jax.steps.state import Tables, create_state
from dien_jax.steps.train import make_train_step


class Peaks(NamedTuple):
    """Peaks of a device by its data sheet."""

    flops: float  # a second, dense float32 (of tensor cores in TF32 where there are any)
    bytes: float  # a second, of its memory


PEAKS = {
    "NVIDIA H100 80GB HBM3": Peaks(495e12, 3.35e12),
    "NVIDIA H200": Peaks(495e12, 4.8e12),
    "NVIDIA A100-SXM4-80GB": Peaks(156e12, 2.04e12),
    "TPU v5 lite": Peaks(98.5e12, 0.819e12),
    "TPU v6 lite": Peaks(459e12, 1.64e12),
}
"""NVIDIA's data sheets of H100 SXM, H200 SXM and A100 SXM; Google Cloud's of v5e and v6e."""
ENTRY = re.compile(r"^ENTRY .*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FREE = re.compile(r"= \S+ (parameter|constant|bitcast|tuple|get-tuple-element)\(")
COLUMNS = ("batch", "compute", "operations", "flops", "bytes", "memory_mb", "bound_ms")


def cost(config: Config) -> dict[str, Any]:
    """Compile the step of a configuration and return its cost."""
    schema = schema_of()
    rng = np.random.default_rng(0)
    popularity = rng.integers(1, 1000, ITEMS, dtype=np.int32)
    category = rng.integers(1, CATEGORIES, ITEMS, dtype=np.int32)
    tables = Tables(
        FeatureTables({"category": jnp.asarray(category)}, {}),
        make_sampler(popularity, config.model.auxiliary_distribution),
    )
    batch = random_batch(rng, config.train.batch_size, config.train.max_history)
    state = create_state(config, schema, 100, seed=0)
    step: Any = make_train_step(config, schema, 100)
    compiled = step.lower(state, tables, batch).compile()
    counted: Any = compiled.cost_analysis()
    flops, moved = counted.get("flops", 0.0), counted.get("bytes accessed", 0.0)
    memory = compiled.memory_analysis()
    peaks = PEAKS.get(jax.devices()[0].device_kind)
    return {
        "batch": config.train.batch_size,
        "compute": config.model.compute,
        "operations": operations(compiled.as_text()),
        "flops": flops,
        "bytes": moved,
        "memory_mb": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**20,
        "bound_ms": 1e3 * max(flops / peaks.flops, moved / peaks.bytes) if peaks else None,
        **surroundings(),
    }


def operations(text: str) -> int:
    """Return the operations of a program's entry that run something: about its launches.

    A loop counts once.
    """
    found = ENTRY.search(text)
    lines = found[1].splitlines() if found else []
    return sum(" = " in line and not FREE.search(line) for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, print and write the rows."""
    parser = make_parser(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024, 8192])
    options = parse(parser, arguments, batch_sizes=1)
    base = without_statistics(preset("dien"))
    rows = []
    for size in options.batch_sizes:
        train = dataclasses.replace(base.train, batch_size=size)
        rows.append(cost(dataclasses.replace(base, train=train)))
    report(options, rows, COLUMNS)


if __name__ == "__main__":
    main()

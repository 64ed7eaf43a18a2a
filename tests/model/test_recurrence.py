"""The model's programs have the kernels of their implementation; what cannot run is refused."""

import contextlib
import re
from collections import Counter

import jax
import pytest
from dien_kernels import Device, assume
from jax.sharding import AbstractMesh, AxisType
from support.recurrences import PRECISION, skip_where_it_cannot_run
from support.tiny_run import CONFIG, SCHEMA, batch_of, tables
from support.untrained_run import random_state

from dien_jax.config.presets import with_settings
from dien_jax.errors import UserError
from dien_jax.steps.state import create_state
from dien_jax.steps.train import make_train_step

pytestmark = pytest.mark.long

DEVICES = {
    "mosaic_tpu": Device("tpu", "TPU v5 lite"),
    "triton": Device("gpu", "NVIDIA H100 80GB HBM3", (9, 0)),
    "mosaic_gpu": Device("gpu", "NVIDIA H100 80GB HBM3", (9, 0)),
}


def configured(implementation: str, **changes: object):
    precision = PRECISION.get(implementation, "highest")
    changes |= {"implementation": implementation, "recurrence_precision": precision}
    return with_settings(CONFIG, {f"model.{name}": value for name, value in changes.items()})


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize(
    ("implementation", "call", "forward", "backward"),
    [
        ("mosaic_tpu", "@tpu_custom_call(", '"recurrence_forward"', '"recurrence_backward"'),
        ("triton", "triton(", 'name = "recurrence_forward"', 'name = "recurrence_backward"'),
        ("mosaic_gpu", "@mosaic_gpu", "recurrence_keep", "recurrence_backward"),
    ],
)
def test_a_step_launches_two_kernels_in_each_direction(
    implementation: str, call: str, forward: str, backward: str
) -> None:
    """The extractor's and the evolution's, in the program for a device that is not there."""
    skip_where_it_cannot_run(implementation)
    config, device = configured(implementation), DEVICES[implementation]
    state = random_state(configured("reference"), SCHEMA)
    step = make_train_step(config, SCHEMA, 10)
    mesh = contextlib.nullcontext()
    if device.platform == "gpu":  # Pallas asks the mesh which device it lowers for
        absent = jax.sharding.AbstractDevice(device.kind, 132, "gpu")
        types = (AxisType.Auto,)
        mesh = AbstractMesh((1,), ("x",), axis_types=types, abstract_device=absent)
        mesh = jax.sharding.use_abstract_mesh(mesh)
    with assume(device), mesh:
        traced = step.trace(state, tables(), batch_of(4))
        platform = "cuda" if device.platform == "gpu" else "tpu"
        program = str(traced.lower(lowering_platforms=(platform,)).as_text())
    calls = [line for line in program.splitlines() if call in line]
    assert len(calls) == 4
    assert sum(forward in line for line in calls) == 2
    assert sum(backward in line for line in calls) == 2


@pytest.mark.parametrize("implementation", ["native", "xla"])
def test_a_step_calls_the_native_kernels_of_all_parts_or_of_none(implementation: str) -> None:
    state = random_state(configured("reference"), SCHEMA)
    step = make_train_step(configured(implementation), SCHEMA, 10)
    program = str(step.lower(state, tables(), batch_of(4)).as_text())
    calls = Counter(re.findall(r"custom_call @dien_kernels_(\w+)", program))
    two, one = dict.fromkeys(["forward", "backward"], 2), ["auxiliary", "attention"]
    native = two | dict.fromkeys([*one, "attention_backward", "adam"], 1)
    assert calls == (native if implementation == "native" else {})


def test_attention_without_a_native_kernel_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"model\.implementation: .* no native kernel of bilinear"):
        create_state(configured("native", attention="bilinear"), SCHEMA, 10, seed=0)
    accepted = configured("auto", attention="bilinear")
    jax.eval_shape(lambda: create_state(accepted, SCHEMA, 10, seed=0))


def test_an_implementation_that_cannot_run_here_is_an_error_of_the_users() -> None:
    with pytest.raises(UserError, match=r"model\.implementation: .*'triton' needs an NVIDIA GPU"):
        create_state(configured("triton"), SCHEMA, 10, seed=0)

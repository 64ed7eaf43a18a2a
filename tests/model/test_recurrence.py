"""The model with every implementation of its recurrences, on any device and for absent ones."""

import contextlib
import functools
import re
from collections import Counter

import jax
import numpy as np
import pytest
from dien_kernels import Device, assume, interpreted
from jax.sharding import AbstractMesh, AxisType
from support.recurrences import PALLAS, PRECISION, skip_where_it_cannot_run
from support.tiny_run import CONFIG, SCHEMA, batch_of, make_loss, tables
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


@functools.cache
def losses_and_gradients(implementation: str, evolution: str):
    """Of one batch, at parameters that every implementation is given alike."""
    config = configured(implementation, evolution=evolution)
    start = random_state(configured("reference", evolution=evolution), SCHEMA)
    loss = jax.jit(jax.value_and_grad(make_loss(config, SCHEMA), has_aux=True))
    with interpreted():
        (total, (_, metrics)), gradients = loss(
            start.params, start.batch_stats, tables(), batch_of(4), start.key
        )
    return (total, metrics["click_loss"], metrics["auxiliary_loss"]), gradients


@pytest.mark.parametrize(
    ("implementation", "evolution"),
    [*((name, "augru") for name in ("xla", "native", *PALLAS)), ("xla", "agru")],
)
def test_losses_and_gradients_are_the_oracles(implementation: str, evolution: str) -> None:
    skip_where_it_cannot_run(implementation)
    # Products of mosaic_gpu have operands of 8 bits: 2^-9 each, a few products deep.
    of_loss, of_gradient = (1e-2, 5e-2) if implementation == "mosaic_gpu" else (1e-6, 1e-4)
    losses, gradients = losses_and_gradients(implementation, evolution)
    wanted_losses, wanted_gradients = losses_and_gradients("reference", evolution)
    np.testing.assert_allclose(losses, wanted_losses, rtol=of_loss)
    for (path, got), want in zip(
        jax.tree_util.tree_leaves_with_path(gradients),
        jax.tree.leaves(wanted_gradients),
        strict=True,
    ):
        name = jax.tree_util.keystr(path)
        # The last attention bias has no gradient, by softmax's shift invariance: what it has is
        # rounding, of terms of the size of its layer's other gradients.
        is_rounding = name == "['network']['attention']['score']['bias']"
        attention = wanted_gradients["network"]["attention"]
        floor = np.abs(attention["score"]["kernel"]).max() if is_rounding else 0
        scale = np.abs(want).max(initial=max(floor, 1e-6))
        np.testing.assert_allclose(
            got / scale, want / scale, atol=of_gradient, rtol=0, err_msg=name
        )


def lowered(implementation: str) -> str:
    """The train step's program for a device that is not there."""
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
        return str(traced.lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("implementation", DEVICES)
def test_a_step_launches_two_kernels_in_each_direction(implementation: str) -> None:
    """The extractor's and the evolution's."""
    skip_where_it_cannot_run(implementation)
    program = lowered(implementation)
    if implementation == "mosaic_tpu":
        calls = [line for line in program.splitlines() if "@tpu_custom_call(" in line]
        forward, backward = '"recurrence_forward"', '"recurrence_backward"'
    elif implementation == "triton":
        calls = [line for line in program.splitlines() if "triton(" in line]
        forward, backward = 'name = "recurrence_forward"', 'name = "recurrence_backward"'
    else:
        calls = [line for line in program.splitlines() if "@mosaic_gpu" in line]
        forward, backward = "recurrence_keep", "recurrence_backward"
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
    native = two | dict.fromkeys([*one, "attention_backward"], 1)
    assert calls == (native if implementation == "native" else {})


def test_attention_without_a_native_kernel_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"model\.implementation: .* no native kernel of bilinear"):
        create_state(configured("native", attention="bilinear"), SCHEMA, 10, seed=0)
    create_state(configured("auto", attention="bilinear"), SCHEMA, 10, seed=0)


def test_an_implementation_that_cannot_run_here_is_an_error_of_the_users() -> None:
    with pytest.raises(UserError, match=r"model\.implementation: .*'triton' needs an NVIDIA GPU"):
        create_state(configured("triton"), SCHEMA, 10, seed=0)

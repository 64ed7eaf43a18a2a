"""The choice of an implementation, and the check of a kernel before "auto" takes it."""

import dataclasses
import importlib.util
import json
import shutil
import warnings
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import pytest
from dien_kernels import (
    Device,
    agreement,
    assume,
    choice,
    devices,
    explain,
    fused,
    interpreted,
)
from dien_kernels.backends import xla
from dien_kernels.contract import Backend, Blocks
from support.recurrences import assert_agree, evaluate, operands

pytestmark = pytest.mark.long

V5E = Device("tpu", "TPU v5 lite")
H100 = Device("gpu", "NVIDIA H100 80GB HBM3", (9, 0))
A100 = Device("gpu", "NVIDIA A100-SXM4-80GB", (8, 0))
V100 = Device("gpu", "Tesla V100-SXM2-16GB", (7, 0))
MI300 = Device("gpu", "AMD Instinct MI300X")
CPU = Device("cpu", "cpu")
SHAPE = {"batch": 128, "steps": 100, "hidden": 36}


@pytest.fixture(autouse=True)
def no_native_kernels(fresh, monkeypatch):
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")


def test_the_device_at_hand_is_described():
    device = devices.current()
    assert (device.platform, device.attached) == ("cpu", True)
    with jax.default_device(jax.devices("cpu")[0]):
        assert devices.current() == device
    with assume(H100):
        assert devices.current() == dataclasses.replace(H100, attached=False)
    assert devices.current() == device


@pytest.mark.parametrize(
    ("name", "fits"), [("mosaic_tpu", [V5E]), ("mosaic_gpu", [H100]), ("triton", [H100, A100])]
)
def test_a_named_kernel_runs_on_its_devices_only(name, fits):
    for device in (V5E, H100, A100, V100, MI300, CPU):
        with assume(device):
            if device in fits:
                choice.require(name)
                continue
            with pytest.raises(NotImplementedError, match=f"'{name}' needs .*'{device.kind}'"):
                choice.require(name)


def test_auto_says_what_it_took():
    found = explain("augru", **SHAPE)
    assert (found.implementation, found.reason) == ("xla", "native: $DIEN_KERNELS_NATIVE is 0")
    with assume(V5E):
        found = explain("augru", **SHAPE)
    assert found.implementation == "xla"
    assert "mosaic_tpu: it has not been run" in found.reason
    with pytest.raises(ValueError, match="precision: expected one of"):
        explain("augru", **SHAPE, precision="double")
    with pytest.raises(ValueError, match="cell: expected one of"):
        explain("lstm", **SHAPE)


@pytest.fixture
def tpu_here(monkeypatch):
    """Pretend that the device is a TPU, and interpret kernels."""
    monkeypatch.setattr(devices, "current", lambda: V5E)
    with interpreted():
        yield


def take(monkeypatch, **changes):
    """Replace mosaic_tpu of the table by XLA's scans with changes."""
    functions = {"forward": xla.scan_forward, "backward": xla.scan_backward} | changes
    stand_in = Backend(
        "mosaic_tpu",
        "tbh",
        padded_hidden=lambda hidden: hidden,
        blocks=lambda *_: Blocks(rows=1),
        check=lambda *_: None,
        **functions,
    )
    monkeypatch.setattr(choice, "backend", lambda name: stand_in)


@pytest.mark.parametrize(("cell", "form"), [("gru", "paper"), ("agru", "authors")])
def test_a_kernel_that_agrees_is_taken_and_remembered(cell, form, monkeypatch, tpu_here, tmp_path):
    forward = Mock(side_effect=xla.scan_forward)
    take(monkeypatch, forward=forward)
    found = explain(cell, **SHAPE, form=form)
    assert found.implementation == "mosaic_tpu"
    assert found.reason == "it agrees with the oracle on this TPU v5 lite"
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    assert 0 <= kept["deviation"] < 1e-5
    assert kept["error"] is None
    agreement.outcome.cache_clear()  # as in the next process
    forward.reset_mock()
    assert explain(cell, **SHAPE, form=form) == found
    forward.assert_not_called()


def test_a_failure_for_lack_of_memory_is_not_remembered(monkeypatch, tpu_here, tmp_path):
    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")
    take(monkeypatch, forward=Mock(side_effect=full))
    with pytest.warns(RuntimeWarning, match="it failed on this device .*Out of memory"):
        assert explain("augru", **SHAPE).implementation == "xla"
    assert not [*tmp_path.iterdir()]


def test_wide_states_are_checked_on_their_own(monkeypatch, tpu_here):
    def narrow(plan, operands, keep):
        assert operands.initial.shape[1] <= 64, "too wide"
        return xla.scan_forward(plan, operands, keep)

    take(monkeypatch, forward=narrow)
    assert explain("augru", **SHAPE).implementation == "mosaic_tpu"
    with pytest.warns(RuntimeWarning, match="too wide"):
        assert explain("augru", **SHAPE | {"hidden": 65}).implementation == "xla"


def test_key_of_an_outcome_changes_with_every_source_file(monkeypatch, tmp_path):
    package = tmp_path / "dien_kernels"
    shutil.copytree(Path(agreement.__file__).parent, package)
    monkeypatch.setattr(agreement, "__file__", str(package / "agreement.py"))
    keys = [agreement.key_of("xla", V5E, "")]
    for source in ("backends/triton.py", "contract.py"):
        with (package / source).open("a") as file:
            file.write("# changed\n")
        keys.append(agreement.key_of("xla", V5E, ""))
    assert len(set(keys)) == 3


def test_names_of_implementations_are_those_of_the_table_and_files():
    names = get_args(choice.Implementation)
    assert names[:3] == ("auto", "reference", "xla")
    assert set(choice.KERNELS) <= set(names[3:])
    for name in names[2:]:
        # Not imported: JAX 0.10's Pallas Mosaic GPU needs packages that jax does not install.
        assert importlib.util.find_spec(f"dien_kernels.backends.{name}") is not None


def wrong(plan, *arguments):
    gradients = xla.scan_backward(plan, *arguments)
    return gradients._replace(initial=1.01 * gradients.initial)


BROKEN = Mock(side_effect=RuntimeError("Mosaic failed to compile\nat length"))


def not_a_number(*arguments, keep):
    states, kept = xla.scan_forward(*arguments, keep)
    return states * jnp.nan, kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backward": wrong}, r"by XLA instead of mosaic_tpu: it deviates .* delete"),
        ({"forward": BROKEN}, r"it failed on this device \(RuntimeError: Mosaic"),
        ({"forward": not_a_number}, "deviates from the oracle by inf"),
    ],
)
def test_a_kernel_that_deviates_or_fails_is_left_with_one_warning(
    changes, message, monkeypatch, tpu_here
):
    take(monkeypatch, **changes)
    with pytest.warns(RuntimeWarning, match=message):
        found = explain("augru", **SHAPE)
    assert found.implementation == "xla"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert explain("augru", **SHAPE) == found


def test_the_check_runs_outside_of_what_is_traced(monkeypatch, tpu_here):
    """The first call may be inside jit and grad."""
    take(monkeypatch)
    arrays = operands("augru")
    found = evaluate.__wrapped__("augru", "paper", "auto")(*arrays)
    assert_agree(found, evaluate("augru", "paper", "reference")(*arrays), 1e-5)


def test_the_real_kernel_passes_its_check_interpreted(tpu_here, monkeypatch):
    run = fused.run

    def run_interpreted(backend, plan, inputs):
        return run(backend, dataclasses.replace(plan, interpret=True), inputs)

    monkeypatch.setattr(fused, "run", run_interpreted)
    assert explain("augru", **SHAPE).implementation == "mosaic_tpu"

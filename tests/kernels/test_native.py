"""The recurrences in C++ against the oracle, and when they run.

Dimensions: B batch, T steps, D input, H hidden.
"""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import (
    Device,
    auxiliary_loss,
    choice,
    devices,
    explain,
    explain_network,
    gru,
    interpreted,
)
from dien_kernels.backends import native
from dien_kernels.native import build, networks
from support.recurrences import (
    CASES,
    assert_agree,
    evaluate,
    operands,
)

pytestmark = pytest.mark.long

# B, T, D, H, live: sizes near panels of 32 rows, chunks of 16 steps, 4 to 16 lanes, tiles of 6 and
# 12 columns; more panels than sums of weight gradients. Cases of cell, form and bias take turns.
SIZES = [
    (1, 1, 1, 1, "mixed"),
    (2, 15, 3, 5, "full"),
    (31, 16, 15, 11, "mixed"),
    (32, 17, 16, 12, "empty"),
    (33, 33, 17, 13, "mixed"),
    (65, 7, 40, 16, "mixed"),
    (130, 5, 36, 17, "full"),
    (3, 100, 18, 36, "mixed"),
    (40, 9, 5, 50, "empty"),
    (600, 3, 8, 8, "mixed"),
    (5, 6, 130, 129, "mixed"),
    (33, 41, 4, 6, "mixed"),
]
RECURRENCES = [(*CASES[row % len(CASES)], *sizes) for row, sizes in enumerate(SIZES)]


@pytest.mark.parametrize("case", RECURRENCES, ids=lambda case: "-".join(map(str, case)))
def test_recurrences_are_the_oracles(case):
    cell, form, biased, batch, steps, depth, hidden, live = case
    arrays = operands(
        cell, batch=batch, steps=steps, depth=depth, hidden=hidden, biased=biased, live=live,
        scale=min(0.5, 2 * hidden**-0.5),  # a larger one makes a chaotic recurrence of a wide one
    )  # fmt: skip
    expected = evaluate(cell, form, "reference")(*arrays)
    # float32 rounding grows with the steps that errors pass through and the terms of a sum. A
    # gradient of one step multiplies some six factors of the gates, each accurate to 3e-7.
    tolerance = max(2e-6, 1e-6 * np.sqrt(max(batch * steps, hidden)))
    assert_agree(evaluate(cell, form, "native")(*arrays), expected, tolerance)


@pytest.mark.parametrize("where", ["x", "attention", "initial"])
def test_a_live_nan_reaches_its_own_row_of_a_recurrence(where):
    x, attention, weights, _, initial = operands("augru", batch=40)
    arrays = {"x": x, "attention": attention, "initial": initial}
    place = (17, 3) if where != "initial" else (17,)
    arrays[where] = arrays[where].at[place].set(jnp.nan)
    states, *_ = evaluate("augru", "paper", "native")(
        arrays["x"], arrays["attention"], weights, jnp.full(40, 7, jnp.int32), arrays["initial"]
    )
    assert np.isnan(states).any((1, 2)).tolist() == [row == 17 for row in range(40)]
    assert np.isnan(states[17, -1]).all()


@pytest.mark.parametrize("value", [1e30, -1e30, jnp.inf])
def test_saturated_gates_are_zero_or_one(value):
    x, attention, weights, lengths, initial = operands("gru", live="full")
    weights = weights._replace(bias=weights.bias.at[1].set(value))
    arrays = x, attention, weights, lengths, initial
    found, expected = (evaluate("gru", "paper", name)(*arrays) for name in ("native", "reference"))
    assert_agree(found, expected, 1e-6 * np.sqrt(21))


def test_every_precision_of_native_is_float32():
    x, _, weights, lengths, _ = operands("gru")
    found = [
        gru(x, weights, lengths=lengths, implementation="native", precision=precision)[0]
        for precision in ("default", "high", "highest")
    ]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


def test_limits_of_the_kernels_are_those_of_their_sources():
    header = (build.SOURCES / "arguments.h").read_text()
    assert f"constexpr Index kPanel = {native.PANEL};" in header
    assert f"constexpr Index kMostLayers = {networks.MOST_LAYERS};" in header


def test_auto_takes_kernels_once_they_agree_with_the_oracle(fresh, monkeypatch):
    shape = {"batch": 128, "steps": 100, "hidden": 36}
    names = "attention", "auxiliary", "candidates"

    def found():
        networks = [explain_network(name, hidden_layers=2).implementation for name in names]
        return [explain("gru", **shape).implementation, *networks]

    assert found() == ["native"] * 4
    assert explain("gru", **shape).reason == "it agrees with the oracle on this cpu"
    for name in ("gru-paper-highest", *names):
        (file,) = fresh.glob(f"native-{name}-*.json")
        assert 0 < json.loads(file.read_text())["deviation"] < 1e-5
    monkeypatch.setenv("DIEN_KERNELS_NATIVE", "0")
    assert found() == ["xla"] * 4


def test_a_named_kernel_is_refused_where_it_cannot_run(auxiliary, monkeypatch):
    def no_library():
        raise build.BuildError("there is no C++ compiler")

    monkeypatch.setattr("dien_kernels.networks.library.instruction_set", no_library)
    with pytest.raises(NotImplementedError, match=r"there is no C\+\+ compiler"):
        auxiliary_loss(*auxiliary, implementation="native")
    monkeypatch.setattr(devices, "current", lambda: Device("gpu", "NVIDIA H100", (9, 0)))
    for context in (contextlib.nullcontext(), interpreted()):
        with context, pytest.raises(NotImplementedError, match="'native' needs a CPU"):
            choice.require("native")

"""The Pallas kernels in the interpreter, compared with the oracle, on any device.

The interpreter proves the arithmetic, the masks and the order of steps. It proves nothing about
execution on a GPU or TPU. For ``mosaic_gpu`` it runs a plain product in place of ``wgmma``, so only
a run on a Hopper GPU can prove layouts, barriers and copies of that kernel.
"""

import contextlib
import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dien_kernels import Blocks, Weights, augru, interpreted
from support import kernel_cross
from support.kernel_cross import CROSS, KERNELS, PRECISION, CrossCase
from support.recurrences import (
    assert_agree,
    assert_padding_changes_nothing,
    call,
    evaluate,
    operands,
    operands_of_8_bits,
)

pytestmark = pytest.mark.long

# Every pair of values of two columns is in some row, but what mosaic_gpu refuses; T 100 is extra.
PAIRWISE = [
    ("mosaic_tpu", "gru", "paper", 1, 1, 8, "full", "bfloat16"),
    ("mosaic_tpu", "gru", "paper", 3, 1, 128, "full", "float32"),
    ("mosaic_tpu", "gru", "authors", 3, 7, 128, "mixed", "bfloat16"),
    ("mosaic_tpu", "gru", "authors", 130, 7, 8, "empty", "float32"),
    ("mosaic_tpu", "agru", "paper", 130, 7, 36, "full", "bfloat16"),
    ("mosaic_tpu", "agru", "paper", 3, 7, 128, "mixed", "bfloat16"),
    ("mosaic_tpu", "agru", "authors", 130, 7, 200, "empty", "float32"),
    ("mosaic_tpu", "agru", "authors", 3, 1, 64, "full", "float32"),
    ("mosaic_tpu", "augru", "paper", 130, 1, 64, "full", "bfloat16"),
    ("mosaic_tpu", "augru", "authors", 3, 7, 200, "full", "bfloat16"),
    ("mosaic_tpu", "augru", "authors", 3, 7, 8, "empty", "bfloat16"),
    ("triton", "gru", "paper", 130, 1, 36, "mixed", "bfloat16"),
    ("triton", "gru", "paper", 130, 1, 64, "full", "bfloat16"),
    ("triton", "gru", "authors", 1, 1, 128, "full", "float32"),
    ("triton", "gru", "authors", 3, 1, 64, "full", "bfloat16"),
    ("triton", "agru", "paper", 1, 1, 8, "empty", "bfloat16"),
    ("triton", "agru", "paper", 130, 7, 200, "full", "bfloat16"),
    ("triton", "agru", "authors", 1, 7, 200, "mixed", "bfloat16"),
    ("triton", "agru", "authors", 3, 7, 128, "mixed", "bfloat16"),
    ("triton", "agru", "authors", 1, 7, 36, "full", "bfloat16"),
    ("triton", "augru", "paper", 3, 7, 36, "mixed", "float32"),
    ("triton", "augru", "paper", 130, 1, 200, "full", "float32"),
    ("triton", "augru", "paper", 3, 1, 8, "full", "bfloat16"),
    ("triton", "augru", "authors", 1, 7, 36, "mixed", "bfloat16"),
    ("mosaic_gpu", "gru", "paper", 3, 7, 8, "empty", "float32"),
    ("mosaic_gpu", "gru", "paper", 1, 7, 64, "empty", "float32"),
    ("mosaic_gpu", "gru", "authors", 130, 7, 36, "empty", "bfloat16"),
    ("mosaic_gpu", "gru", "authors", 3, 1, 64, "full", "float32"),
    ("mosaic_gpu", "agru", "paper", 3, 7, 64, "mixed", "float32"),
    ("mosaic_gpu", "agru", "authors", 3, 1, 128, "full", "bfloat16"),
    ("mosaic_gpu", "agru", "authors", 130, 1, 8, "mixed", "bfloat16"),
    ("mosaic_gpu", "augru", "paper", 1, 7, 128, "empty", "bfloat16"),
    ("mosaic_gpu", "augru", "authors", 1, 1, 64, "empty", "float32"),
    ("mosaic_gpu", "augru", "authors", 130, 7, 128, "full", "bfloat16"),
    ("mosaic_tpu", "gru", "paper", 1, 7, 200, "empty", "float32"),
    ("triton", "gru", "authors", 3, 1, 200, "full", "float32"),
    ("mosaic_tpu", "augru", "paper", 3, 100, 36, "mixed", "float32"),
    ("triton", "augru", "paper", 3, 100, 36, "mixed", "float32"),
    ("mosaic_gpu", "augru", "paper", 3, 100, 36, "mixed", "float32"),
]


def skip_where_it_cannot_run(kernel):
    if kernel == "mosaic_gpu" and tuple(map(int, jax.__version__.split(".")[:2])) < (0, 11):
        pytest.skip("mosaic_gpu needs JAX 0.11 or newer")


def check(*values):
    skip_where_it_cannot_run(values[0])
    case = CrossCase(*values)
    found, expected = case.results()
    assert_agree(found, expected, case.tolerance())


def test_the_table_holds_every_pair():
    def pairs(cases):
        # Cell and form are one column.
        rows = [(kernel, (cell, form), *rest) for kernel, cell, form, *rest in cases]
        columns = itertools.combinations(range(len(rows[0])), 2)
        return {(i, row[i], j, row[j]) for i, j in columns for row in rows}

    short = [case for case in CROSS if case[4] != 100]
    assert pairs(short) <= pairs(PAIRWISE)


@pytest.mark.parametrize("case", PAIRWISE, ids=lambda case: "-".join(map(str, case)))
def test_kernels_agree_with_the_oracle(case):
    check(*case)


def test_a_stopped_cross_goes_on_and_its_summary_counts_what_agrees(tmp_path, monkeypatch):
    cases = [case for case in CROSS if case[1:4] == ("gru", "paper", 1)][:7]
    outcomes = {cases[1]: 1.5, cases[2]: float("nan"), cases[3]: None}

    def deviation(case):
        seen.append(case)
        if (share := outcomes.get(case, 0.25)) is None:
            raise ValueError("no such\nkernel")
        return share

    monkeypatch.setattr(kernel_cross, "deviation", deviation)
    for count in (3, 7):
        seen = []
        kernel_cross.run(tmp_path / "cross.csv", cases[:count])
        assert sorted(seen) == sorted(cases[:count] if count == 3 else cases[3:])
    rows = dict(kernel_cross.read(tmp_path / "cross.csv"))
    assert rows == dict.fromkeys(cases, "0.25") | {
        cases[1]: "1.5", cases[2]: "nan", cases[3]: "ValueError: no such"
    }  # fmt: skip
    (line,) = [line for line in kernel_cross.summary([*rows.items()]) if ",7,4,1.5," in line]
    assert line == f"{cases[0].kernel},gru,paper,270,7,4,1.5,{jax.__version__}"


def test_a_deviation_is_a_share_of_the_tolerance(monkeypatch):
    case = CROSS[0]
    arrays = jnp.array([2.0, -4.0]), jnp.zeros(2)
    off = jnp.array([2.0, -4.0 + 8 * case.tolerance()]), jnp.zeros(2)
    monkeypatch.setattr(CrossCase, "results", lambda _: (off, arrays))
    assert kernel_cross.deviation(case) == pytest.approx(2, rel=1e-3)
    monkeypatch.setattr(CrossCase, "results", lambda _: (arrays, arrays))
    assert kernel_cross.deviation(case) == 0


@pytest.mark.parametrize("kernel", [name for name in KERNELS if PRECISION[name] == "highest"])
def test_a_sum_that_cancels_is_as_exact_as_its_terms(kernel):
    """A gradient of one live step: eight terms, 50 times as large together as their sum.

    The full cross measures deviations by the largest entry, here the sum, and this one is larger
    than its tolerance.
    """
    arrays = operands("agru", steps=1, biased=True)
    with interpreted():
        found = evaluate("agru", "paper", kernel, "highest")(*arrays)[2][1][0, 0]
    x, attention, weights, _, initial = jax.tree.map(lambda a: np.asarray(a, np.float64), arrays)
    kernels, recurrent, bias, bias_n = weights
    x, attention, state = x[0, 0], attention[0, 0], initial[0]
    reset = 1 / (1 + np.exp(-(x @ kernels[:, 0] + state @ recurrent[:, 0] + bias[0])))
    candidate = np.tanh(x @ kernels[:, 1] + bias[1] + reset * (state @ recurrent[:, 1] + bias_n))
    new = (1 - attention) * state + attention * candidate
    terms = (3 * np.cos(3 * new) - 2 * np.sin(2 * new)) * (candidate - state)
    size = np.abs(terms).sum()
    assert size > 50 * abs(terms.sum())
    np.testing.assert_allclose(found, terms.sum(), rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize("kernel", KERNELS)
def test_padding_changes_nothing(kernel):
    skip_where_it_cannot_run(kernel)
    with interpreted():
        assert_padding_changes_nothing("augru", kernel, PRECISION[kernel])


@pytest.mark.parametrize("kernel", KERNELS)
def test_lengths_below_0_are_0_and_those_above_t_are_t(kernel):
    skip_where_it_cannot_run(kernel)
    x, attention, weights, lengths, initial = operands("augru", batch=130)
    inside = lengths.at[:64].set(0).at[64:70].set(7)  # a whole block of mosaic_gpu is negative
    beyond = inside.at[:64].set(-3).at[64:70].set(50_000)
    with interpreted():
        run = evaluate("augru", "paper", kernel, PRECISION[kernel])
        expected, found = (run(x, attention, weights, n, initial) for n in (inside, beyond))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_composes_with_vmap_and_checkpoint(kernel):
    """Vmap over rows and over weights; rematerialised gradients."""
    skip_where_it_cannot_run(kernel)
    x, attention, weights, lengths, initial = operands("augru")

    def loss(x, weights, implementation=kernel, precision=PRECISION[kernel]):
        states, last = call(
            "augru",
            x,
            attention,
            weights,
            lengths,
            initial,
            implementation=implementation,
            precision=precision,
        )
        return jnp.sin(3 * states).sum() + jnp.cos(2 * last).sum()

    def gradients(loss):
        slopes = jax.grad(loss, (0, 1))
        doubled = jax.tree.map(lambda part: jnp.stack([part, 2 * part]), (x, weights))
        mapped = (
            jax.vmap(slopes, (0, None))(doubled[0], weights),
            jax.vmap(slopes, (None, 0))(x, doubled[1]),
        )
        if kernel == "mosaic_gpu":  # its interpreter has ordered effects, which remat refuses
            return mapped
        return *mapped, jax.grad(jax.checkpoint(loss), (0, 1))(x, weights)

    with interpreted():
        found = jax.jit(lambda: gradients(loss))()
    case = CrossCase(kernel, "augru", "paper", 6, 7, 8, "mixed", "float32")
    with operands_of_8_bits() if case.rounds else contextlib.nullcontext():
        expected = jax.jit(lambda: gradients(lambda x, w: loss(x, w, "reference", "highest")))()
    assert_agree(found, expected, case.tolerance())


@pytest.mark.parametrize("kernel", KERNELS)
def test_forward_mode_points_to_the_oracle(kernel):
    skip_where_it_cannot_run(kernel)
    x, attention, weights, lengths, initial = operands("augru")

    def last(x, implementation):
        precision = PRECISION[kernel]
        return call(
            "augru", x, attention, weights, lengths, initial,
            implementation=implementation, precision=precision,
        )[1]  # fmt: skip

    with interpreted(), pytest.raises(TypeError, match="implementation='reference'"):
        jax.jvp(lambda x: last(x, kernel), (x,), (x,))
    jax.jvp(lambda x: last(x, "reference"), (x,), (x,))


@pytest.mark.parametrize(
    ("kernel", "blocks"),
    [
        ("mosaic_tpu", Blocks(rows=100)),
        ("mosaic_tpu", Blocks(rows=2**20)),
        ("mosaic_gpu", Blocks(rows=48)),
        ("triton", Blocks(rows=24)),
        ("triton", Blocks(rows=16, warps=3)),
    ],
)
def test_blocks_that_cannot_run_are_refused(kernel, blocks):
    skip_where_it_cannot_run(kernel)
    x, attention, weights, lengths, _ = operands("augru")
    with interpreted(), pytest.raises(ValueError, match=r"expected|needs|has"):
        augru(
            x, attention, weights, lengths=lengths, implementation=kernel, blocks=blocks,
            precision=PRECISION[kernel],
        )  # fmt: skip


@pytest.mark.parametrize(("kernel", "hidden"), [("triton", 300), ("mosaic_gpu", 200)])
def test_a_hidden_size_that_does_not_fit_is_refused(kernel, hidden):
    skip_where_it_cannot_run(kernel)
    x, attention, weights, lengths, _ = operands("augru", hidden=hidden)
    with interpreted(), pytest.raises(NotImplementedError, match=f"{kernel}: .*hidden units"):
        augru(
            x, attention, weights, lengths=lengths, implementation=kernel,
            precision=PRECISION[kernel],
        )  # fmt: skip


def test_tensor_cores_have_no_float32():
    skip_where_it_cannot_run("mosaic_gpu")
    x, attention, weights, lengths, _ = operands("augru")
    with interpreted(), pytest.raises(NotImplementedError, match="precision HIGHEST"):
        augru(x, attention, weights, lengths=lengths, implementation="mosaic_gpu")


SHARDED = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from dien_kernels import interpreted
from support.recurrences import assert_agree, assert_padding_changes_nothing, call, operands

x, attention, weights, lengths, initial = operands("augru", batch=12, biased=True)
mesh = Mesh(np.array(jax.devices()), ("data",))
rows, everywhere = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

def loss(x, attention, weights, initial, lengths, **how):
    states, last = call("augru", x, attention, weights, lengths, initial, **how)
    return jnp.sin(3 * states).sum() + last.sum(), (states, last)

def gradients(**how):
    return jax.jit(jax.grad(lambda *a: loss(*a, **how), (0, 1, 2, 3), has_aux=True))

plain = (x, attention, weights, initial, lengths)
placed = jax.device_put(plain, (rows, rows, everywhere, rows, rows))
for name, precision in KERNELS:
    with interpreted():
        run = gradients(implementation=name, precision=precision, batch_sharding=rows)
        compiled = run.lower(*placed).compile()
    (d_x, d_attention, d_weights, d_initial), (states, last) = compiled.output_shardings
    for sharding in (d_x, d_attention, d_initial, states, last):
        assert sharding.spec[0] == "data", (name, sharding)
    program = compiled.as_text()
    gathered = re.findall(r"= (\\S+) all-gather", program)
    assert not [g for g in gathered if g.count(",") >= 2], (name, gathered)
    assert "all-reduce" in program, name
    expected = gradients(implementation="reference")(*plain)
    assert_agree(compiled(*placed), expected, 1e-4 if precision == "highest" else 2**-5)
print("sharded", jax.device_count())
"""


def test_rows_split_over_devices_stay_where_they_are():
    """Four devices: results keep the rows' sharding, nothing of [B, T, .] is gathered, weight
    gradients are summed. (The interpreter of mosaic_gpu has one device only.)
    """
    kernels = [(name, "highest") for name in ("xla", "mosaic_tpu", "triton")]
    code = f"import sys; sys.path.insert(0, 'tests'); KERNELS = {kernels!r}\n{SHARDED}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )
    assert done.stdout.split() == ["sharded", "4"], done.stderr[-2000:]


def test_a_smaller_weight_stack_is_named():
    x, attention, _, lengths, _ = operands("augru")
    small = Weights(jnp.zeros((5, 2, 8)), jnp.zeros((8, 2, 8)), jnp.zeros((2, 8)))
    with interpreted(), pytest.raises(ValueError, match=r"weights\.input"):
        augru(x, attention, small, lengths=lengths, implementation="triton")

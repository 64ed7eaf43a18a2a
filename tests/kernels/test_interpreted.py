"""The Pallas kernels in the interpreter, compared with the oracle, on any device.

The interpreter proves the arithmetic, the masks and the order of steps. It proves nothing about
execution on a GPU or TPU. For ``mosaic_gpu`` it runs a plain product in place of ``wgmma``, so only
a run on a Hopper GPU can prove layouts, barriers and copies of that kernel.

Dimensions: B batch, T steps, H hidden.
"""

import itertools

import jax
import numpy as np
import pytest
from dien_kernels import Blocks, augru
from support.recurrences import (
    PALLAS,
    PRECISION,
    assert_agree,
    assert_padding_changes_nothing,
    evaluate,
    evaluate_with_8_bits,
    operands,
    running,
)

pytestmark = [pytest.mark.long, pytest.mark.newest]

# Kernel, cell, form, B, T, H, type of the input. Sizes are one block of rows and more, one chunk of
# steps and more, and the widest H. Every pair of values of two columns is in some row.
CASES = [
    ("mosaic_tpu", "gru", "paper", 130, 1, 200, "float32"),
    ("mosaic_tpu", "gru", "authors", 3, 1, 36, "float32"),
    ("mosaic_tpu", "agru", "paper", 130, 20, 36, "bfloat16"),
    ("mosaic_tpu", "agru", "authors", 130, 20, 8, "float32"),
    ("mosaic_tpu", "augru", "paper", 3, 1, 8, "bfloat16"),
    ("mosaic_tpu", "augru", "paper", 130, 20, 36, "float32"),
    ("mosaic_tpu", "augru", "authors", 3, 20, 200, "bfloat16"),
    ("triton", "gru", "paper", 3, 20, 8, "float32"),
    ("triton", "gru", "authors", 130, 20, 8, "bfloat16"),
    ("triton", "agru", "paper", 3, 1, 200, "bfloat16"),
    ("triton", "agru", "authors", 3, 20, 36, "bfloat16"),
    ("triton", "augru", "paper", 3, 20, 200, "float32"),
    ("triton", "augru", "authors", 130, 20, 36, "float32"),
    ("mosaic_gpu", "gru", "paper", 3, 20, 36, "bfloat16"),
    ("mosaic_gpu", "gru", "authors", 3, 20, 128, "float32"),
    ("mosaic_gpu", "agru", "paper", 3, 20, 8, "float32"),
    ("mosaic_gpu", "agru", "authors", 130, 1, 128, "bfloat16"),
    ("mosaic_gpu", "augru", "paper", 130, 20, 36, "float32"),
    ("mosaic_gpu", "augru", "authors", 130, 1, 8, "float32"),
]


def test_the_table_holds_every_pair():
    # Cell and form are one column; the widest H of a kernel is one value.
    rows = [
        (kernel, (cell, form), batch, steps, min(hidden, 128), dtype)
        for kernel, cell, form, batch, steps, hidden, dtype in CASES
    ]
    for (i, left), (j, right) in itertools.combinations(enumerate(zip(*rows, strict=True)), 2):
        wanted = itertools.product(sorted(set(left)), sorted(set(right)))
        assert set(wanted) == {(row[i], row[j]) for row in rows}
    assert {row[0] for row in rows} == set(PALLAS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_kernels_agree_with_the_oracle(case):
    """Histories of every length, full ones, and empty ones, by the same programs."""
    kernel, cell, form, batch, steps, hidden, dtype = case
    # float32 rounding grows with the steps that errors pass through and the terms of a sum.
    # bfloat16 inputs leave that, and results rounded to 8 bits: two roundings may differ by one
    # place, 2^-7 of an entry. Where a kernel rounds operands to 8 bits, the oracle does too; but
    # an operand half-way between two such numbers may become either, 2^-8 apart, and later steps
    # carry that on.
    tolerance = 1e-6 * np.sqrt(max(batch * steps, hidden))
    if dtype == "bfloat16":
        tolerance = max(tolerance, 2**-7)
    run = evaluate(cell, form, kernel, PRECISION[kernel])
    oracle = evaluate(cell, form, "reference")
    if PRECISION[kernel] == "default":
        tolerance, oracle = tolerance + 2**-6, evaluate_with_8_bits(cell, form)
    for live in ("mixed", "full", "empty"):
        x, *others = operands(
            cell, batch=batch, steps=steps, hidden=hidden, biased=form == "paper", live=live,
            scale=min(0.5, 2 * hidden**-0.5),  # a larger one is a chaotic recurrence of a wide H
        )  # fmt: skip
        arrays = (x.astype(dtype), *others)
        with running(kernel):
            found = run(*arrays)
        assert_agree(found, oracle(*arrays), tolerance)


@pytest.mark.parametrize("kernel", PALLAS)
def test_padding_changes_nothing(kernel):
    with running(kernel):
        assert_padding_changes_nothing("augru", kernel, PRECISION[kernel])


@pytest.mark.parametrize("kernel", PALLAS)
def test_lengths_below_0_are_0_and_those_above_t_are_t(kernel):
    x, attention, weights, lengths, initial = operands("augru", batch=130)
    inside = lengths.at[:64].set(0).at[64:70].set(7)  # a whole block of mosaic_gpu is negative
    beyond = inside.at[:64].set(-3).at[64:70].set(50_000)
    with running(kernel):
        run = evaluate("augru", "paper", kernel, PRECISION[kernel])
        expected, found = (run(x, attention, weights, n, initial) for n in (inside, beyond))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("kernel", "options", "error", "message"),
    [
        ("mosaic_tpu", {"blocks": Blocks(rows=100)}, ValueError, "expected"),
        ("mosaic_tpu", {"blocks": Blocks(rows=2**20)}, ValueError, "expected|needs|has"),
        ("mosaic_gpu", {"blocks": Blocks(rows=48)}, ValueError, "expected|needs|has"),
        ("triton", {"blocks": Blocks(rows=24)}, ValueError, "expected"),
        ("triton", {"blocks": Blocks(rows=16, warps=3)}, ValueError, "expected"),
        ("triton", {"hidden": 300}, NotImplementedError, "triton: .*hidden units"),
        ("mosaic_gpu", {"hidden": 200}, NotImplementedError, "mosaic_gpu: .*hidden units"),
        ("mosaic_gpu", {"precision": "highest"}, NotImplementedError, "precision HIGHEST"),
    ],
)
def test_what_a_kernel_cannot_run_is_refused(kernel, options, error, message):
    options = {"hidden": 8, "precision": PRECISION[kernel], **options}
    x, attention, weights, lengths, _ = operands("augru", hidden=options.pop("hidden"))
    with running(kernel), pytest.raises(error, match=message):
        augru(x, attention, weights, lengths=lengths, implementation=kernel, **options)

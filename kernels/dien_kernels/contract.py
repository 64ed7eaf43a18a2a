"""The interface of a fused implementation: what a backend reads, computes and returns.

A backend supplies two launches. The forward launch goes through time and keeps the states and the
gates. The backward launch turns gradients of the states into gradients of the gates.

Every cell is one formula with two coefficients for each step and row,

    z = offset + slope * u,    h' = h + z * (c - h)

    | cell  | form    | offset | slope    |
    |-------|---------|--------|----------|
    | GRU   | paper   | 0      | 1        |
    | GRU   | authors | 1      | -1       |
    | AGRU  | both    | a      | no u     |
    | AUGRU | paper   | 0      | a        |
    | AUGRU | authors | 1      | -(1 - a) |

Both are 0 at a dead step, which leaves the state unchanged to the bit. With ``before`` the state
at the start of a step and ``dh`` the gradient of the state at its end, one step backward is

    d_candidate = dh * z * (1 - c * c)                    before tanh
    d_update    = dh * (c - before) * slope * u * (1 - u) before its sigmoid
    d_reset     = paper:   d_candidate * product * r * (1 - r),       product = before U_c + d
                  authors: (d_candidate U_c^T) * before * r * (1 - r)
    d_before    = dh * (1 - z) + d_reset U_r^T + d_update U_u^T
                  + paper: (d_candidate * r) U_c^T;  authors: (d_candidate U_c^T) * r
    d_offset    = sum over H of dh * (c - before)
    d_slope     = sum over H of dh * (c - before) * u

Dimensions: B batch (rows), T steps, D input, H hidden. The layout of a backend is
the order of the three dimensions of its arrays, ``"tbh"`` or ``"thb"``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from dien_kernels.options import Form
from dien_kernels.reference import Cell

Layout = Literal["tbh", "thb"]
Leaf = Any  # an array or None; a reference within a kernel, a block or shape around one


class Shape(NamedTuple):
    """Sizes that decide the implementation: rows on one device, T and H."""

    rows: int
    steps: int
    hidden: int


class Gates(NamedTuple):
    """One array for each gate; AGRU has no update gate."""

    reset: Leaf
    update: Leaf
    candidate: Leaf


class Operands(NamedTuple):
    """Arrays that a launch reads, float32 except for the lengths."""

    inputs: Gates  # projected inputs with their biases, in the layout
    offset: Leaf  # [T, B]
    slope: Leaf  # [T, B]; zeros for AGRU
    lengths: Leaf  # int32 [B], live steps: a block of rows may stop at its longest history
    recurrent: Gates  # [H, H] each, a row for each entry of the state
    bias: Leaf  # [H], added to the candidate's product in the paper's form
    initial: Leaf  # [B, H] or [H, B], as in the layout


class Kept(NamedTuple):
    """Arrays that the forward launch keeps, in the layout; any finite value at dead steps.

    The backward launch reads them. The gradients of the recurrent weights, which are shared code,
    read ``reset``.
    """

    reset: Leaf
    update: Leaf
    candidate: Leaf
    product: Leaf  # before U_c + bias; None in the authors' form


class Gradients(NamedTuple):
    """Results of the backward launch, for the operands of the same names."""

    inputs: Gates
    offset: Leaf
    slope: Leaf
    initial: Leaf


class Histories(NamedTuple):
    """Operands of a whole recurrence, float32 except for the lengths; also their gradients."""

    x: Leaf  # [B, T, D]; any value at dead steps
    offset: Leaf  # [T, B]
    slope: Leaf  # [T, B]
    lengths: Leaf  # int32 [B]
    weights: Any  # Weights with a recurrent bias
    initial: Leaf  # [B, H]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Block sizes of a Pallas kernel.

    A block carries ``rows`` of the batch through time, in chunks of ``steps`` if the kernel has
    chunks; on GPUs it has ``warps`` of 32 threads.

    >>> Blocks(rows=128, steps=8)
    Blocks(rows=128, steps=8, warps=4)
    """

    rows: int
    steps: int = 1
    warps: int = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """The static part of a call; each plan is compiled separately."""

    cell: Cell
    form: Form  # the reset gate multiplies after its matmul ("paper") or before it ("authors")
    precision: jax.lax.Precision  # of the recurrent matmuls
    blocks: Blocks | None = None  # of a Pallas kernel
    interpret: bool = False  # run the kernel's own program in the interpreter, on any device

    @property
    def has_update(self) -> bool:
        return self.cell != "agru"

    def gates(self, value: Leaf) -> Gates:
        """Return ``value`` for each gate that the cell has."""
        return Gates(value, value if self.has_update else None, value)

    def kept(self, value: Leaf) -> Kept:
        """Return ``value`` for each array that a forward launch keeps."""
        return Kept(*self.gates(value), value if self.form == "paper" else None)


@dataclasses.dataclass(frozen=True)
class Backend:
    """A Pallas kernel for the steps; projections and weight gradients are XLA's matmuls."""

    name: str  # as in implementation=
    layout: Layout
    # (plan, operands, keep) to states, in the layout, and Kept; a dead step repeats the last state.
    forward: Callable[..., tuple[jax.Array, Kept | None]]
    backward: Callable[..., Gradients]  # (plan, operands, states, kept, d_states)
    # H that the kernel runs with: padding is zeros, and a padded column of the state stays 0.
    padded_hidden: Callable[[int], int]
    blocks: Callable[[Plan, int, int, int], Blocks]  # (plan, rows, steps, padded H) to block sizes
    # Raises ValueError if the blocks cannot run, and NotImplementedError if the plan cannot.
    check: Callable[[Plan, Blocks, int, int, int], None]


@dataclasses.dataclass(frozen=True)
class HistoryBackend:
    """An implementation of a whole recurrence, with its projections and weight gradients."""

    name: str  # as in implementation=
    # (plan, histories) to all states [B, T, H] and the last ones [B, H], with its own derivative.
    run: Callable[[Plan, Histories], tuple[jax.Array, jax.Array]]
    # Prepares it and returns what its results depend on, besides sources and versions. Raises
    # NotImplementedError with the reason if it cannot run.
    identity: Callable[[], str] = lambda: ""

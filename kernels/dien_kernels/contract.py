"""What a fused implementation is given and what it gives back.

A backend supplies two launches: one forward through time that keeps
the states and what the gates were, one backward that turns the gradients of the states into those
of the gates. Everything else is matmuls over all steps at once, outside: the input projections
before, each weight gradient after.

Every cell is one formula with two coefficients a step and row,

    z = offset + slope * u,    h' = h + z * (c - h)

    | cell  | form    | offset | slope    |
    |-------|---------|--------|----------|
    | GRU   | paper   | 0      | 1        |
    | GRU   | authors | 1      | -1       |
    | AGRU  | both    | a      | no u     |
    | AUGRU | paper   | 0      | a        |
    | AUGRU | authors | 1      | -(1 - a) |

and both are 0 at a dead step, which keeps the state as it was, to the bit. With ``before`` the
state a step starts from, and ``dh`` the gradient of the state it ends in, one step backward is

    d_candidate = dh * z * (1 - c * c)                    before tanh
    d_update    = dh * (c - before) * slope * u * (1 - u) before its sigmoid
    d_reset     = paper:   d_candidate * product * r * (1 - r),       product = before U_c + d
                  authors: (d_candidate U_c^T) * before * r * (1 - r)
    d_before    = dh * (1 - z) + d_reset U_r^T + d_update U_u^T
                  + paper: (d_candidate * r) U_c^T;  authors: (d_candidate U_c^T) * r
    d_offset    = sum over H of dh * (c - before)
    d_slope     = sum over H of dh * (c - before) * u

Dimensions: B batch (rows), T steps, D input, H hidden. A backend chooses the order of the three
dimensions of its arrays, ``"tbh"`` or ``"thb"``; it is called layout below.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import NamedSharding

from dien_kernels.reference import Form

Layout = Literal["tbh", "thb"]

Leaf = Any
"""An array, or None; within a kernel its reference, around one its block or shape."""


class Gates(NamedTuple):
    """One array for each gate; AGRU has no update gate."""

    reset: Leaf
    update: Leaf
    candidate: Leaf


class Operands(NamedTuple):
    """What a launch reads, float32 but for the lengths.

    Attributes:
      inputs: projected inputs with their biases, layout.
      offset: ``[T, B]``.
      slope: ``[T, B]``; zeros for AGRU.
      lengths: int32 ``[B]``, live steps: a block of rows may stop at its longest.
      recurrent: ``[H, H]`` each, rows are the state's.
      bias: ``[H]``, added to the candidate's product in the paper's form.
      initial: ``[B, H]`` or ``[H, B]``, as in the layout.
    """

    inputs: Gates
    offset: Leaf
    slope: Leaf
    lengths: Leaf
    recurrent: Gates
    bias: Leaf
    initial: Leaf


class Kept(NamedTuple):
    """What the forward launch keeps for the backward one, in the layout.

    ``product`` is ``before U_c + bias`` in the paper's form and None in the authors'. At a dead
    step any finite value will do.
    """

    reset: Leaf
    update: Leaf
    candidate: Leaf
    product: Leaf


class Gradients(NamedTuple):
    """What the backward launch gives: of the projected inputs, coefficients and initial state."""

    inputs: Gates
    offset: Leaf
    slope: Leaf
    initial: Leaf


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a kernel cuts its work.

    Attributes:
      rows: rows of the batch that one block carries through time.
      steps: steps whose inputs one block holds at once, where a kernel works in chunks of time.
      warps: warps of 32 threads a block, on GPUs.
    """

    rows: int
    steps: int = 1
    warps: int = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """The fixed part of one call, by which it is compiled.

    Attributes:
      form: where the reset gate multiplies, before or after its matmul.
      has_update: False for AGRU.
      precision: of the recurrent matmuls.
      blocks: how the kernel cuts its work; None where the backend has no blocks.
      interpret: True runs the kernel's own program in the interpreter, on any device.
      sharding: how rows are split over devices, or None.
    """

    form: Form
    has_update: bool
    precision: jax.lax.Precision
    blocks: Blocks | None = None
    interpret: bool = False
    sharding: NamedSharding | None = None


@dataclasses.dataclass(frozen=True)
class Backend:
    """What a fused implementation supplies.

    Attributes:
      name: as in ``implementation=``.
      layout: order of the dimensions of its arrays.
      forward: ``(plan, operands, keep) -> (states, Kept or None)``, states in the layout; a dead
        step repeats the last live state.
      backward: ``(plan, operands, states, kept, d_states) -> Gradients``.
      padded_hidden: the hidden size that the kernel runs at, for a given one. Padding is zeros
        everywhere, and a padded column of the state stays 0.
      blocks: ``(plan, rows, steps, hidden) -> Blocks``, a choice for this shape, with
        ``plan.blocks`` None; ``hidden`` is padded already. None where there are no blocks.
      check: ``(plan, blocks, rows, steps, hidden)`` raises ``ValueError`` where these blocks
        cannot run, and ``NotImplementedError`` where the plan cannot.
    """

    name: str
    layout: Layout
    forward: Callable[..., tuple[jax.Array, Kept | None]]
    backward: Callable[..., Gradients]
    padded_hidden: Callable[[int], int] = lambda hidden: hidden
    blocks: Callable[[Plan, int, int, int], Blocks | None] = lambda *_: None
    check: Callable[[Plan, Blocks, int, int, int], None] = lambda *_: None

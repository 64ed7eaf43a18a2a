"""Shared parts of the kernels for Hopper: rings, stores, matmuls, memory.

R is the 64 rows of a block, H the hidden size, C the columns of a chunk of it. In registers an
array ``[R, H]`` is a tuple of its chunks ``[R, C]``, in the layout of a ``wgmma`` result.

Pallas' own barriers around every access are off. The necessary ones are here, and each joins all
threads of a block: in :meth:`Ring.take` after a tile is read and before it is fetched again, in
:func:`emit` before a tile is written again and after it is written, in :func:`operand`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from dien_kernels.contract import Gates, Plan

latest: Any = plgpu  # for names that the oldest JAX lacks and that type checkers do not know
ROWS = 64  # of a block: the M of a wgmma
LIMIT = 227 * 1024  # bytes of shared memory of a block on Hopper
RESERVED = 4 * 1024  # bytes of it for barriers and Pallas itself
Chunks = tuple[jax.Array, ...]


def columns(hidden: int) -> int:
    """Return C: narrow enough for the registers, and a multiple of 16, the K of a ``wgmma``."""
    return 48 if hidden == 48 else 32 if hidden % 32 == 0 else 16


def padded_hidden(hidden: int) -> int:
    unit = 16 if hidden <= 64 else 32
    return -(-hidden // unit) * unit


class Place(NamedTuple):
    """The rows of a block, and the chunks of their columns."""

    rows: Any
    width: int
    chunks: int

    @classmethod
    def of_block(cls, hidden: int) -> "Place":
        first = jax.lax.axis_index("block") * ROWS
        width = columns(hidden)
        return cls(pl.ds(first, ROWS), width, hidden // width)

    def columns(self, chunk: int) -> Any:
        return pl.ds(chunk * self.width, self.width)

    def tile(self, array: Any, step: Any, chunk: int) -> Any:
        """Return ``[R, C]`` of an array ``[T, B, H]``."""
        return array.at[step, self.rows, self.columns(chunk)]

    def load(self, array: Any) -> Chunks:
        """Load all chunks of an array ``[B, H]`` in global memory."""
        tiles = (array.at[self.rows, self.columns(chunk)] for chunk in range(self.chunks))
        return tuple(_load(tile, optimized=False) for tile in tiles)

    def across(self, row: jax.Array) -> jax.Array:
        """Broadcast a value for each row, ``[R]``, to all columns, ``[R, C]``."""
        return jax.lax.broadcast_in_dim(row, (ROWS, self.width), (0,))

    def cut(self, array: jax.Array) -> Chunks:
        """Split an array ``[R, N]`` into chunks."""
        starts = range(0, array.shape[1], self.width)
        return tuple(array[:, start : start + self.width] for start in starts)

    def rounded(self, tile: Any, chunk: int, value: jax.Array) -> jax.Array:
        """Round a chunk of an :func:`operand`, and store it in ``tile`` unless that is None."""
        value = value.astype(jnp.bfloat16)
        if tile is not None:
            tile.at[:, self.columns(chunk)][...] = value
        return value


class Ring(NamedTuple):
    """Tiles fetched ahead for units of work: the chunks of a step, step by step."""

    memory: tuple[Sequence[Any], Any]  # tiles [depth, R, C] or [depth, R]; a barrier for each slot
    sources: Callable[[Any, int], Sequence[Any]]  # (step, chunk) to arrays, one for each tile
    steps: Any  # dynamic
    chunks: int  # of a step

    @property
    def depth(self) -> int:
        return self.memory[0][0].shape[0]

    def _slot(self, step: Any, chunk: int) -> Any:
        if self.chunks % self.depth == 0:
            return chunk % self.depth
        return jax.lax.rem(step, self.depth // self.chunks) * self.chunks + chunk

    def _fetch(self, step: Any, chunk: int) -> None:
        slot = self._slot(step, chunk)
        tiles, arrived = self.memory

        @pl.when(step < self.steps)
        def _() -> None:
            for source, tile in zip(self.sources(step, chunk), tiles, strict=True):
                plgpu.copy_gmem_to_smem(source, tile.at[slot], arrived.at[slot])

    def start(self) -> None:
        """Fetch as many units as there are slots."""
        for unit in range(self.depth):
            self._fetch(jnp.int32(unit // self.chunks), unit % self.chunks)

    def take(self, step: Any, chunk: int) -> list[jax.Array]:
        """Wait for a unit's tiles, load them, and fetch the next unit of their slot."""
        slot = self._slot(step, chunk)
        tiles, arrived = self.memory
        plgpu.barrier_wait(arrived.at[slot])
        tiles = [tile.at[slot] for tile in tiles]
        # A value for each row is in four threads at once, which has no optimized load.
        values = [_load(tile, optimized=len(tile.shape) == 2) for tile in tiles]
        plgpu.commit_smem()
        ahead = chunk + self.depth
        self._fetch(step + ahead // self.chunks, ahead % self.chunks)
        return values


def _load(ref: Any, *, optimized: bool) -> jax.Array:
    return latest.load(ref, layout=_layout(ref.shape), optimized=optimized)


def zeros(*shape: int) -> jax.Array:
    """Return zeros ``[R, N]``, or one for each row ``[R]``."""
    return plgpu.layout_cast(jnp.zeros(shape, jnp.float32), _layout(shape))


def _layout(shape: Sequence[int]) -> Any:
    return plgpu.Layout.WGMMA if len(shape) == 2 else plgpu.Layout.WGMMA.reduce(1)


class Output(NamedTuple):
    """A value, its tile of shared memory, and its destination at a step."""

    tile: Any
    value: jax.Array
    destination: Callable[[Any], Any]


def emit(step: Any, outputs: Sequence[Output], end: Any = None) -> None:
    """Store values at a step, or the same ones at all steps from it up to ``end``."""
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
    for output in outputs:
        output.tile[...] = output.value
    plgpu.commit_smem()

    def send(step: Any, _: None) -> None:
        for output in outputs:
            plgpu.copy_smem_to_gmem(output.tile, output.destination(step))

    send(step, None) if end is None else jax.lax.fori_loop(step, end, send, None)


def down(ref: Any) -> jax.Array:
    """Broadcast a value for each column, ``[C]`` in shared memory, to all rows, ``[R, C]``."""
    column = latest.load(ref, layout=plgpu.Layout.WGMMA.reduce(0), optimized=False)
    return jax.lax.broadcast_in_dim(column, (ROWS, *column.shape), (1,))


def over_steps(
    steps: Any, length: Any, step: Callable[[Any, Chunks, Any], Chunks], start: Chunks
) -> Chunks:
    """Run ``step(number, value, zero)`` for every step of a block, and return the last value.

    A step adds ``zero`` to the addresses of its operands (:func:`rows_from`). Without it they are
    the same in all steps, and the compiler computes them before the loop: two registers for each 16
    rows of a matrix, which at H 128 are more than a thread has. It cannot know that the smaller one
    of 0 and a ``length``, which comes from memory and is never negative, is always 0.
    """

    def body(number: Any, carry: tuple[Chunks, Any]) -> tuple[Chunks, Any]:
        value, zero = carry
        return step(number, value, zero), jnp.minimum(zero, length)

    return jax.lax.fori_loop(0, steps, body, (start, jnp.int32(0)))[0]


def rows_from(matrix: Any, first: int, rows: int, zero: Any) -> Any:
    """Return rows of a matrix in shared memory, at an address computed in each step."""
    return matrix.at[pl.ds(pl.multiple_of(first + zero, rows), rows)]


def operand(tile: Any, chunks: Sequence[jax.Array], zero: Any) -> Any:
    """Return the left operand ``[R, K]`` of a matmul, from registers where there is no tile."""
    if tile is None:
        return jnp.concatenate(chunks, 1)
    plgpu.commit_smem()
    return rows_from(tile, 0, ROWS, zero)


def matmul(interpret: bool, start: jax.Array, terms: Sequence[tuple[Any, Any]]) -> jax.Array:
    """Return ``start`` plus operands ``[R, K]`` times weights ``[K, N]`` in shared memory."""
    if interpret:
        for left, right in terms:
            product = jnp.dot(left[...], right[...], preferred_element_type=jnp.float32)
            start = start + product
        return start

    def accumulate(accumulator: Any) -> None:
        for left, right in terms:
            plgpu.wgmma(accumulator, left, right)

    return pl.run_state(accumulate)(plgpu.ACC.init(start))


def gate_names(plan: Plan) -> tuple[str, ...]:
    return tuple(name for name in Gates._fields if plan.has_update or name != "update")


def gate_groups(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Group the gates that one forward matmul computes: those that multiply the same operand."""
    if plan.form == "paper":
        return {"all": ("candidate", "reset", "update")[: len(gate_names(plan))]}
    return {name: (name,) for name in gate_names(plan)}


def memory_of(plan: Plan, hidden: int, kind: str, depth: int) -> dict[str, Any]:
    """Return the layout of a kernel's shared memory, with rings of ``depth`` units each.

    ``kind`` is ``"forward"``, ``"keep"`` (forward, keeping the gates) or ``"backward"``.
    """
    width, single, half = columns(hidden), jnp.float32, jnp.bfloat16
    tile, row = (ROWS, width), (ROWS,)
    swizzled = 32 if width % 32 == 0 else 16  # columns
    swizzle = plgpu.SwizzleTransform(swizzled * jnp.dtype(half).itemsize)
    transforms = (plgpu.TilingTransform((8, swizzled)), swizzle)

    def matrix(*shape: int) -> Any:
        return plgpu.SMEM(shape, half, transforms=transforms)

    def ring(*parts: tuple[int, ...]) -> Any:
        barriers = plgpu.Barrier(num_arrivals=len(parts), num_barriers=depth)
        return [plgpu.SMEM((depth, *part), single) for part in parts], barriers

    memory: dict[str, Any] = {"arrived": plgpu.Barrier()}
    update, paper = plan.has_update, plan.form == "paper"
    if kind == "backward":
        memory["weights"] = {name: matrix(hidden, hidden) for name in gate_names(plan)}
        lefts = gate_names(plan)
        memory["first"] = ring(row, *[tile] * (5 if paper else 3), *[row, tile] * update)
        if not paper:
            memory["second"] = ring(tile, tile)
        stage = dict.fromkeys(gate_names(plan), tile) | {"offset": row, "slope": row}
    else:
        memory["weights"] = {
            group: matrix(hidden // width * hidden, len(names) * width)
            for group, names in gate_groups(plan).items()
        }
        lefts = ("state",) if paper else ("state", "masked")
        memory["first"] = ring(tile)
        memory["second"] = ring(row, tile, *[row, tile] * update)
        stage = {"states": tile}
        if kind == "keep":
            stage |= dict.fromkeys([*gate_names(plan), *["product"] * paper], tile)
        if paper:
            memory["bias"] = {"bias": plgpu.SMEM((hidden,), single)}
    # Registers do not suffice for wider operands.
    memory["left"] = {name: matrix(ROWS, hidden) if hidden > 64 else None for name in lefts}
    memory["stage"] = {name: plgpu.SMEM(shape, single) for name, shape in stage.items()}
    return memory


def bytes_of(memory: Any) -> int:
    """Return the bytes of shared memory; each array starts at a multiple of 1024."""
    arrays = [leaf for leaf in jax.tree.leaves(memory) if not isinstance(leaf, plgpu.Barrier)]
    sizes = [math.prod(array.shape) * jnp.dtype(array.dtype).itemsize for array in arrays]
    return sum(-(-size // 1024) * 1024 for size in sizes) + RESERVED


def deepest(plan: Plan, hidden: int, kind: str) -> dict[str, Any]:
    """Return the memory with two steps in the rings, or as much of them as fits."""
    # Whole steps or whole fractions, so that a unit's slot is known while compiling, or nearly so.
    # Addresses computed from the step's number took so many registers that they spilled.
    chunks = hidden // columns(hidden)
    for depth in (2 * chunks, *(n for n in range(chunks, 0, -1) if chunks % n == 0)):
        memory = memory_of(plan, hidden, kind, depth)
        if bytes_of(memory) <= LIMIT:
            break
    return memory

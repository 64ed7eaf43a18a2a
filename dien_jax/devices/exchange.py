"""Exchange of rows of sharded arrays: fetch rows from their owners, and send gradients back.

    distinct ids -> owners (all-to-all) -> rows (all-to-all) ... gradients -> owners (all-to-all)

In a round, each device requests at most C rows from each owner. C is static, and depends on the
batch, not on the size of tables. If a device needs more rows of one owner, further rounds follow
until all rows have arrived. All devices agree on the slots of each round, so an owner gets all
gradients of a row in the same round.

Everything here runs inside ``jax.shard_map``. Dimensions: n devices, U distinct ids that a device
looks up, C rows that it requests from one owner in a round, Q slots of an owner.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dien_jax.devices.mesh import AXIS
from dien_jax.steps.placement import Layout
from dien_jax.steps.rows import Rows, distinct

SPREAD = 4
"""Standard deviations above the mean, of the number of ids per owner, that fit in a round."""

Carry = TypeVar("Carry")


def capacity(ids: int, devices: int) -> int:
    """Return C for U distinct ids: an even share, plus a margin for random differences."""
    even = ids / devices
    return min(ids, math.ceil(even + SPREAD * math.sqrt(even)) + 8)


class Round(NamedTuple):
    """One exchange of all devices with all others.

    Attributes:
      first: index, among a device's ids, of the first one that it requests from each owner.
      counts: number of ids that it requests from each owner.
      wanted: slots of the rows that every device requests from this one; Q for none.
      is_last: whether no device has ids left; the same on all devices.
    """

    first: Int[Array, " n"]
    counts: Int[Array, " n"]
    wanted: Int[Array, "n C"]
    is_last: Bool[Array, ""]


class Exchange:
    """The exchange of the rows that ids of this device look up in arrays of one layout.

    Attributes:
      size: U; entries after the distinct ids are filler, which reads the first row again.
      further: number of rounds after the first one, known after :meth:`over_rounds`.
    """

    def __init__(self, ids: Int[Array, "..."], layout: Layout) -> None:
        self._layout = layout
        owned, devices = layout.owned, layout.devices
        past = owned * devices
        slots = layout.slots(ids.reshape(-1))
        self.size = min(slots.shape[0], past)
        self._capacity = capacity(self.size, devices)
        self._slots = distinct(slots, past).write
        self._bounds = jnp.arange(devices + 1, dtype=slots.dtype) * owned
        starts = jnp.searchsorted(self._slots, self._bounds).astype(slots.dtype)
        self._ends = starts[1:]
        self._first = self._round(starts[:-1])
        self.further = jnp.zeros((), jnp.int32)

    def places(self, ids: Int[Array, "..."]) -> Int[Array, "..."]:
        """Return the position of each id among the U."""
        return jnp.searchsorted(self._slots, self._layout.slots(ids)).astype(ids.dtype)

    def fetch(self, tree: Any) -> Any:
        """Return the rows ``[U, ...]`` of a tree of 32-bit arrays ``[Q, ...]``."""
        leaves, structure = jax.tree.flatten(tree)
        owner = jnp.minimum(self._slots // self._layout.owned, self._layout.devices - 1)
        places = jnp.arange(self.size, dtype=owner.dtype)

        def answered(asked: Round, rows: jax.Array) -> jax.Array:
            here = jnp.minimum(asked.wanted, self._layout.owned - 1)
            bits = [jax.lax.bitcast_convert_type(leaf[here], jnp.int32) for leaf in leaves]
            found = _to_all(_packed(bits, lead=2))
            number = places - asked.first[owner]
            is_answer = (number >= 0) & (number < asked.counts[owner])
            answer = found[owner, jnp.clip(number, 0, self._capacity - 1)]
            return jnp.where(is_answer[:, None], answer, rows)

        width = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
        rows = self.over_rounds(answered, jnp.zeros((self.size, width), jnp.int32))
        is_filler = self._slots >= self._bounds[-1]
        rows = jnp.where(is_filler[:, None], rows[:1], rows)
        return jax.tree.unflatten(structure, _unpacked(rows, leaves))

    def over_rounds(self, function: Callable[[Round, Carry], Carry], carry: Carry) -> Carry:
        """Apply a function to every round in turn, and return its last result."""

        def body(loop: tuple) -> tuple:
            further, before, carry = loop
            asked = self._round(before.first + before.counts)
            return further + 1, asked, function(asked, carry)

        start = jnp.zeros((), jnp.int32), self._first, function(self._first, carry)
        self.further, _, carry = jax.lax.while_loop(lambda loop: ~loop[1].is_last, body, start)
        return carry

    def summed(self, gradients: list[Float[Array, "U ..."]]) -> list[Float[Array, "Q ..."]]:
        """Return the gradients of every row of this device, summed over all devices."""
        packed = _packed(gradients, lead=1)

        def add(asked: Round, total: jax.Array) -> jax.Array:
            sent = self._sent(asked, packed)
            return total.at[asked.wanted.reshape(-1)].add(sent, mode="drop")

        zeros = jnp.zeros((self._layout.owned, packed.shape[1]), packed.dtype)
        return _unpacked(self.over_rounds(add, zeros), gradients)

    def received(
        self, asked: Round, gradients: list[Float[Array, "U ..."]]
    ) -> tuple[Rows, list[Float[Array, "W ..."]]]:
        """Return the W rows that a round requests from this device, and their summed gradients."""
        owned = self._layout.owned
        places = asked.wanted.reshape(-1)
        rows = distinct(places, owned)  # with the slot past the end that filler requests
        rows = rows._replace(read=jnp.minimum(rows.read, owned - 1))
        count = rows.read.shape[0]
        sent = self._sent(asked, _packed(gradients, lead=1))
        where = jnp.where(places < owned, jnp.searchsorted(rows.write, places), count)
        total = jnp.zeros((count, sent.shape[1]), sent.dtype).at[where].add(sent, mode="drop")
        return rows, _unpacked(total, gradients)

    def _sent(self, asked: Round, packed: Float[Array, "U W"]) -> Float[Array, "nC W"]:
        """Return the rows that all devices send to this one, zeros for filler."""
        places, is_asked = self._places(asked.first, asked.counts)
        parts = jnp.where(is_asked[..., None], packed[places], 0)
        return _to_all(parts).reshape(-1, packed.shape[1])

    def _round(self, first: Int[Array, " n"]) -> Round:
        """Return the round that starts at these indices of the ids."""
        owned, base = self._layout.owned, self._bounds[:-1]
        beyond = first + self._capacity
        last = self._slots[jnp.minimum(beyond, self.size - 1)] - base
        cut = jax.lax.pmin(jnp.where(beyond < self._ends, last, owned), AXIS)
        ends = jnp.searchsorted(self._slots, base + cut).astype(first.dtype)
        counts = ends - first
        places, is_asked = self._places(first, counts)
        asked = jnp.where(is_asked, self._slots[places] - base[:, None], owned)
        return Round(first, counts, _to_all(asked), (cut == owned).all())

    def _places(
        self, first: Int[Array, " n"], counts: Int[Array, " n"]
    ) -> tuple[Int[Array, "n C"], Bool[Array, "n C"]]:
        """Return indices of ids for each owner, and whether a round requests them."""
        number = jnp.arange(self._capacity, dtype=first.dtype)[None, :]
        places = jnp.minimum(first[:, None] + number, self.size - 1)
        return places, number < counts[:, None]


def _to_all(parts: jax.Array) -> jax.Array:
    """Send row d to device d; row d of the result is from device d."""
    return jax.lax.all_to_all(parts, AXIS, 0, 0, tiled=True)


def _packed(leaves: list[jax.Array], *, lead: int) -> jax.Array:
    """Concatenate arrays of one type, flattened after ``lead`` axes."""
    return jnp.concatenate([leaf.reshape(*leaf.shape[:lead], -1) for leaf in leaves], axis=-1)


def _unpacked(packed: jax.Array, like: list[jax.Array]) -> list[jax.Array]:
    """Undo :func:`_packed`: return arrays with the types and row shapes of ``like``."""
    ends = np.cumsum([math.prod(leaf.shape[1:]) for leaf in like])
    parts = zip(jnp.split(packed, ends[:-1], axis=1), like, strict=True)
    flat = [(jax.lax.bitcast_convert_type(part, leaf.dtype), leaf) for part, leaf in parts]
    return [part.reshape(-1, *leaf.shape[1:]) for part, leaf in flat]

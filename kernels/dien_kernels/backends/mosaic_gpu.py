"""The recurrences as two kernels for Hopper's tensor cores, in Pallas Mosaic GPU.

One warpgroup carries 64 rows of the batch through all steps. The state (in the backward kernel
its gradient) stays in registers in the layout that ``wgmma`` reads and writes. The recurrent
weights stay in shared memory, in bfloat16. Asynchronous copies bring the operands of a step into a
ring of tiles while earlier steps compute, and take its results from tiles of their own.

A block of rows ends at its own longest history. After that it only stores the last state, or sums
the gradients of the states.

Operands, results and equations are in :mod:`dien_kernels.contract`. Arrays are ``[T, B, H]``;
:mod:`dien_kernels.backends.mosaic_gpu_parts` explains R, C and chunks.

The interpreter runs these bodies with a plain matmul in place of ``wgmma``, whose left operand it
cannot take from registers. It proves the arithmetic and the order of copies and waits. It proves
nothing about layouts, swizzles, memory fences, or the hardware's approximate ``tanh``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

from dien_kernels.backends import mosaic_gpu_parts as hopper
from dien_kernels.contract import Backend, Blocks, Gates, Gradients, Kept, Operands, Plan
from dien_kernels.step import sigmoid

NOTHING = Gates(None, None, None)


def _forward_body(plan: Plan, reads: Any, gives: Any, memory: dict[str, Any]) -> None:
    operands, matrices, longest = reads
    states, kept = gives
    weights, stage, left = memory["weights"], memory["stage"], memory["left"]
    steps, _, hidden = states.shape
    place = hopper.Place.of_block(hidden)
    live = longest[jax.lax.axis_index("block")]

    def for_reset(t: Any, chunk: int) -> list:
        return [place.tile(operands.inputs.reset, t, chunk)]

    def for_rest(t: Any, chunk: int) -> list:
        rows, inputs = place.rows, operands.inputs
        sources = [operands.offset.at[t, rows], place.tile(inputs.candidate, t, chunk)]
        if plan.has_update:
            sources += [operands.slope.at[t, rows], place.tile(inputs.update, t, chunk)]
        return sources

    # In the authors' form the reset gate of all columns comes before any candidate.
    resets = hopper.Ring(memory["first"], for_reset, live, place.chunks)
    rest = hopper.Ring(memory["second"], for_rest, live, place.chunks)
    resets.start()
    rest.start()
    _fetch(matrices, weights, memory["arrived"])
    if plan.form == "paper":
        _fetch({"bias": operands.bias}, memory["bias"], memory["arrived"])

    def half(name: str, value: jax.Array, chunk: int) -> jax.Array:
        return place.rounded(left[name], chunk, value)

    def through(name: str, value: Any, chunk: int, zero: Any, *starts: Any) -> hopper.Chunks:
        """Return columns of some gates' chunk: starts plus an operand times their weights."""
        matrix = hopper.rows_from(weights[name], chunk * hidden, hidden, zero)
        start = jnp.concatenate(starts, 1)
        return place.cut(hopper.matmul(plan.interpret, start, [(value, matrix)]))

    def output(name: str, value: jax.Array, chunk: int) -> list[hopper.Output]:
        array = states if name == "states" else getattr(kept, name, None)
        if array is None:
            return []
        return [hopper.Output(stage[name], value, lambda t: place.tile(array, t, chunk))]

    def resets_first(t: jax.Array, before: hopper.Chunks, h: Any, zero: Any) -> Any:
        """Return the state times the reset gate, as an operand, in the authors' form."""
        parts = []
        for chunk in range(place.chunks):
            (r,) = map(sigmoid, through("reset", h, chunk, zero, *resets.take(t, chunk)))
            parts.append(half("masked", r * before[chunk], chunk))
            hopper.emit(t, output("reset", r, chunk))
        return hopper.operand(left["masked"], parts, zero)

    def step(t: jax.Array, before: hopper.Chunks, zero: Any) -> hopper.Chunks:
        parts = [half("state", part, chunk) for chunk, part in enumerate(before)]
        h = hopper.operand(left["state"], parts, zero)
        if plan.form == "authors":
            masked = resets_first(t, before, h, zero)
        after: hopper.Chunks = ()
        for chunk in range(place.chunks):
            offset, x_candidate, *update = rest.take(t, chunk)
            outputs = []
            if plan.form == "authors":
                (candidate,) = through("candidate", masked, chunk, zero, x_candidate)
                gates: list[jax.Array] = []
                if plan.has_update:
                    gates += through("update", h, chunk, zero, update[1])
            else:
                bias = hopper.down(memory["bias"]["bias"].at[place.columns(chunk)])
                starts = bias, *resets.take(t, chunk), *update[1:]
                product, r, *gates = through("all", h, chunk, zero, *starts)
                r = sigmoid(r)
                candidate = x_candidate + r * product
                outputs += output("reset", r, chunk) + output("product", product, chunk)
            c = jnp.tanh(candidate)
            z = place.across(offset)
            if plan.has_update:
                u = sigmoid(gates[0])
                z = z + place.across(update[0]) * u
                outputs += output("update", u, chunk)
            after += (before[chunk] + z * (c - before[chunk]),)
            outputs += output("candidate", c, chunk) + output("states", after[-1], chunk)
            hopper.emit(t, outputs)
        return after

    last = hopper.over_steps(live, longest[0], step, place.load(operands.initial))
    nothing = hopper.zeros(hopper.ROWS, place.width)
    for chunk, part in enumerate(last):
        outputs = output("states", part, chunk)
        for name in Kept._fields:
            outputs += output(name, nothing, chunk)
        hopper.emit(live, outputs, steps)
    plgpu.wait_smem_to_gmem(0)


def _backward_body(plan: Plan, reads: Any, gives: Any, memory: dict[str, Any]) -> None:
    """Run 64 rows back through time; the recurrent matrices are transposed."""
    operands, matrices, longest, before_all, kept, d_states = reads
    weights, stage, left = memory["weights"], memory["stage"], memory["left"]
    steps, _, hidden = d_states.shape
    place = hopper.Place.of_block(hidden)
    live = longest[jax.lax.axis_index("block")]

    def for_all(i: Any, chunk: int) -> list:
        t, rows = live - 1 - i, place.rows
        wide = [d_states, before_all, kept.candidate]
        if plan.form == "paper":
            wide += [kept.reset, kept.product]
        sources = [operands.offset.at[t, rows], *(place.tile(a, t, chunk) for a in wide)]
        if plan.has_update:
            sources += [operands.slope.at[t, rows], place.tile(kept.update, t, chunk)]
        return sources

    def for_reset(i: Any, chunk: int) -> list:
        t = live - 1 - i
        return [place.tile(before_all, t, chunk), place.tile(kept.reset, t, chunk)]

    everything = hopper.Ring(memory["first"], for_all, live, place.chunks)
    everything.start()
    if plan.form == "authors":
        resets = hopper.Ring(memory["second"], for_reset, live, place.chunks)
        resets.start()
    _fetch(matrices, weights, memory["arrived"])

    def output(name: str, value: jax.Array, chunk: int) -> hopper.Output:
        array = getattr(gives.inputs, name)
        return hopper.Output(stage[name], value, lambda t: place.tile(array, t, chunk))

    def row_outputs(d_offset: jax.Array, d_slope: jax.Array) -> list[hopper.Output]:
        rows = place.rows
        offset = hopper.Output(stage["offset"], d_offset, lambda t: gives.offset.at[t, rows])
        slope = hopper.Output(stage["slope"], d_slope, lambda t: gives.slope.at[t, rows])
        return [offset, slope] if plan.has_update else [offset]

    def through(parts: dict[str, list[jax.Array]], zero: Any, *names: str) -> list[tuple[Any, Any]]:
        """Return terms of a matmul: shares of some gates in the gradient of the state before."""
        lefts = [hopper.operand(left[name], parts[name], zero) for name in names]
        rights = [hopper.rows_from(weights[name], 0, hidden, zero) for name in names]
        return list(zip(lefts, rights, strict=True))

    def resets_last(i: jax.Array, d_masked: hopper.Chunks, d_before: list, parts: dict) -> None:
        """Finish the authors' form, whose gradient of the reset gate needs all of U_c."""
        for chunk, d_part in enumerate(d_masked):
            before, r = resets.take(i, chunk)
            d_before[chunk] += d_part * r
            d_reset = d_part * before * r * (1 - r)
            parts["reset"].append(place.rounded(left["reset"], chunk, d_reset))
            hopper.emit(live - 1 - i, [output("reset", d_reset, chunk)])

    def step(i: jax.Array, dh: hopper.Chunks, zero: Any) -> hopper.Chunks:
        d_offset, d_slope = hopper.zeros(hopper.ROWS), hopper.zeros(hopper.ROWS)
        d_before: list[jax.Array] = []
        parts: dict[str, list[jax.Array]] = {name: [] for name in weights}
        for chunk in range(place.chunks):
            offset, d_state, before, c, *more = everything.take(i, chunk)
            d_after = dh[chunk] + d_state
            z = place.across(offset)
            d_z = d_after * (c - before)
            d_offset += d_z.sum(1)
            inputs = {}
            if plan.has_update:
                slope, u = place.across(more[-2]), more[-1]
                z = z + slope * u
                d_slope += (d_z * u).sum(1)
                inputs["update"] = d_z * slope * u * (1 - u)
            d_before.append(d_after * (1 - z))
            inputs["candidate"] = d_after * z * (1 - c * c)
            d_product = inputs["candidate"]
            if plan.form == "paper":
                r, product = more[:2]
                d_product = d_product * r
                inputs["reset"] = d_product * product * (1 - r)
            for name, value in (inputs | {"candidate": d_product}).items():
                parts[name].append(place.rounded(left[name], chunk, value))
            outputs = [output(name, value, chunk) for name, value in inputs.items()]
            if chunk == place.chunks - 1:
                outputs += row_outputs(d_offset, d_slope)
            hopper.emit(live - 1 - i, outputs)
        names = list(weights)
        if plan.form == "authors":
            names.remove("candidate")
            start = hopper.zeros(hopper.ROWS, hidden)
            d_masked = hopper.matmul(plan.interpret, start, through(parts, zero, "candidate"))
            resets_last(i, place.cut(d_masked), d_before, parts)
        start = jnp.concatenate(d_before, 1)
        return place.cut(hopper.matmul(plan.interpret, start, through(parts, zero, *names)))

    def dead_step(i: jax.Array, carry: tuple) -> tuple[hopper.Chunks, hopper.Chunks]:
        dh, d_state = carry
        following = place.load(d_states.at[jnp.maximum(steps - 2 - i, 0)])
        return tuple(a + b for a, b in zip(dh, d_state, strict=True)), following

    nothing, no_row = hopper.zeros(hopper.ROWS, place.width), hopper.zeros(hopper.ROWS)
    for chunk in range(place.chunks):
        outputs = [output(name, nothing, chunk) for name in weights]
        hopper.emit(live, outputs + row_outputs(no_row, no_row), steps)
    start = (nothing,) * place.chunks, place.load(d_states.at[steps - 1])
    dh, _ = jax.lax.fori_loop(0, steps - live, dead_step, start)
    dh = hopper.over_steps(live, longest[0], step, dh)
    for chunk, part in enumerate(dh):
        target = gives.initial.at[place.rows, place.columns(chunk)]
        hopper.emit(0, [hopper.Output(stage["candidate"], part, lambda _: target)])  # noqa: B023
    plgpu.wait_smem_to_gmem(0)


def _fetch(arrays: dict[str, Any], places: dict[str, Any], arrived: Any) -> None:
    """Copy arrays into shared memory, once for all steps."""
    for name, place in places.items():
        plgpu.copy_gmem_to_smem(arrays[name], place, arrived)
        plgpu.barrier_wait(arrived)


def _stacked(plan: Plan, recurrent: Gates) -> dict[str, jax.Array]:
    """Return forward weights: for each chunk of columns, those of a group's gates side by side."""
    hidden = recurrent.reset.shape[0]
    width = hopper.columns(hidden)

    def stack(names: tuple[str, ...]) -> jax.Array:
        matrices = [getattr(recurrent, name).reshape(hidden, -1, width) for name in names]
        chunks = jnp.concatenate(matrices, 2).swapaxes(0, 1)
        return chunks.reshape(-1, len(names) * width).astype(jnp.bfloat16)

    return {group: stack(names) for group, names in hopper.gate_groups(plan).items()}


def _launch(plan: Plan, body: Callable, kind: str, reads: Any, gives: Any) -> Any:
    hidden = reads[0].initial.shape[1]
    flat_reads, reads_tree = jax.tree.flatten(reads)
    flat_gives, gives_tree = jax.tree.flatten(gives)

    def kernel(*references: Any, **memory: Any) -> None:
        reads = jax.tree.unflatten(reads_tree, references[: len(flat_reads)])
        gives = jax.tree.unflatten(gives_tree, references[len(flat_reads) :])
        body(plan, reads, gives, memory)

    out = plgpu.kernel(
        kernel,
        out_type=tuple(flat_gives),
        scratch_types=hopper.deepest(plan, hidden, kind),
        grid=(reads[0].lengths.shape[0] // hopper.ROWS,),
        grid_names=("block",),
        compiler_params=plgpu.CompilerParams(
            approx_math=True,  # as exact as the operands, which have 8 bits
            unsafe_no_auto_barriers=True,  # the bodies have the barriers that are needed
        ),
        interpret=hopper.latest.InterpretGPUParams() if plan.interpret else None,
        kernel_name=f"recurrence_{kind}",
    )(*flat_reads)
    return jax.tree.unflatten(gives_tree, out)


def _longest(operands: Operands) -> jax.Array:
    return operands.lengths.reshape(-1, hopper.ROWS).max(1)


def forward(plan: Plan, operands: Operands, keep: bool) -> tuple[jax.Array, Kept | None]:
    wide = jax.ShapeDtypeStruct(operands.inputs.candidate.shape, jnp.float32)
    matrices = _stacked(plan, operands.recurrent)
    reads = operands._replace(recurrent=NOTHING), matrices, _longest(operands)
    gives = (wide, plan.kept(wide) if keep else None)
    return _launch(plan, _forward_body, "keep" if keep else "forward", reads, gives)


def backward(
    plan: Plan, operands: Operands, states: jax.Array, kept: Kept, d_states: jax.Array
) -> Gradients:
    gates = {name: getattr(operands.recurrent, name) for name in hopper.gate_names(plan)}
    matrices = {name: gate.T.astype(jnp.bfloat16) for name, gate in gates.items()}
    before = jnp.concatenate([operands.initial[None], states[:-1]])
    # Without the projected inputs, so that they need not outlive the forward launch.
    needed = operands._replace(inputs=NOTHING, recurrent=NOTHING)
    reads = needed, matrices, _longest(operands), before, kept, d_states
    results = states, operands.offset, operands.initial
    wide, row, initial = (jax.ShapeDtypeStruct(like.shape, like.dtype) for like in results)
    gives = Gradients(plan.gates(wide), row, row if plan.has_update else None, initial)
    gradients = _launch(plan, _backward_body, "backward", reads, gives)
    if plan.has_update:
        return gradients
    return gradients._replace(slope=jnp.zeros_like(operands.slope))


def blocks(*_: Any) -> Blocks:
    """Return the only choice: the rows of a ``wgmma`` and the warps that issue it."""
    return Blocks(hopper.ROWS)


def check(plan: Plan, blocks: Blocks, _rows: int, _steps: int, hidden: int) -> None:
    if jax.__version_info__ < (0, 11):
        raise NotImplementedError(
            f"mosaic_gpu: needs JAX 0.11 or newer, whose Pallas Mosaic GPU loads and stores by"
            f" layout, compiled and interpreted; this is {jax.__version__}"
        )
    if plan.precision != jax.lax.Precision.DEFAULT:
        raise NotImplementedError(
            f"mosaic_gpu: precision {plan.precision.name} of the recurrent matmuls; Hopper's"
            " tensor cores round operands to bfloat16, which is precision DEFAULT"
        )
    if blocks != Blocks(hopper.ROWS):
        raise ValueError(f"blocks: expected {Blocks(hopper.ROWS)}, got {blocks}")
    for kind in ("keep", "backward"):
        needed = hopper.bytes_of(hopper.deepest(plan, hidden, kind))
        if needed > hopper.LIMIT:
            raise NotImplementedError(
                f"mosaic_gpu: {hidden} hidden units (padded) need {needed} bytes of shared memory,"
                f" expected at most {hopper.LIMIT}"
            )


BACKEND = Backend("mosaic_gpu", "tbh", forward, backward, hopper.padded_hidden, blocks, check)

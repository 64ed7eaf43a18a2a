"""PyTorch's recurrences on the same arrays, for ``python -m benchmarks.recurrence --peers``.

``torch.nn.GRU``, which uses cuDNN on an NVIDIA GPU, runs on a padded batch and, if lengths differ,
also on a packed one. An AUGRU in TorchScript loops over steps; one matmul before the loop projects
the inputs for all gates. ``nn.GRU`` is compared in the paper's form only, and there is no AGRU. All
run on JAX's device with as many threads as JAX.

``nn.GRU`` computes ``h' = (1 - z) o n + z o h`` with ``n = tanh(x W + b + r o (h U + d))``. This is
the paper's form with ``z = 1 - u``, so the weights of that gate and their gradients are negated.

Dimensions: B batch, T steps, D input, H hidden. Gates are ordered reset, update, candidate.
"""

import os
import warnings
from collections.abc import Callable

import jax
import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.common.comparison import Contender

Tensors = list[torch.Tensor]


def contenders(
    cell: str, arguments: tuple, *, gradients: bool, form: str, precision: str
) -> dict[str, Contender]:
    """Return PyTorch's implementations of a cell by name, if any.

    Args:
      cell: ``"gru"``, ``"agru"`` or ``"augru"``.
      arguments: input, attention, weights and lengths, as JAX arrays.
      gradients: False for states of live steps, True for the gradients of their sum of squares.
      form: ``"paper"`` or ``"authors"``.
      precision: ``"highest"`` is float32; at lower ones a GPU may use TF32, as XLA does.
    """
    device = _device()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cuda.matmul.allow_tf32 = precision != "highest"
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    x, attention, *weights, lengths = (
        torch.tensor(np.asarray(array), device=device) for array in jax.tree.leaves(arguments)
    )
    is_ragged = int(lengths.min()) < x.shape[1]
    by_name: dict[str, Contender] = {}
    if cell == "gru" and form == "paper":
        by_name["torch nn.GRU"] = _gru(x, weights, lengths, is_ragged, gradients, packed=False)
        if is_ragged:
            packed = _gru(x, weights, lengths, is_ragged, gradients, packed=True)
            by_name["torch nn.GRU, packed"] = packed
    if cell == "augru":
        script = _augru(x, attention, weights, lengths, is_ragged, gradients, form)
        by_name["torch script"] = script
    return by_name


def _device() -> torch.device:
    """Return JAX's default device as a torch device."""
    platform = jax.devices()[0].platform
    if platform == "cpu":
        return torch.device("cpu")
    if platform == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise SystemExit(f"--peers: this PyTorch ({torch.__version__}) has no {platform}, JAX has one")


def _contender(
    states: Callable[[], torch.Tensor],
    inputs: Tensors,
    live: torch.Tensor | None,
    gradients: bool,
    as_jax: Callable[[Tensors], Tensors],
) -> Contender:
    """Return states of live steps, or gradients of their sum of squares for ``inputs``.

    ``live`` is None if every step is live; ``as_jax`` puts gradients into the oracle's order.
    """

    def live_states() -> torch.Tensor:
        every = states()
        return every if live is None else every * live

    def call() -> Tensors:
        if gradients:
            results = list(torch.autograd.grad((live_states() ** 2).sum(), inputs))
        else:
            with torch.no_grad():
                results = [live_states()]
        if results[0].is_cuda:
            torch.cuda.synchronize()
        return results

    def result() -> list[np.ndarray]:
        results = call()
        return [part.cpu().numpy() for part in (as_jax(results) if gradients else results)]

    return Contender(call, result, {"torch": torch.__version__})


def _mask(lengths: torch.Tensor, steps: int) -> torch.Tensor:
    """Return 1 for live steps and 0 for dead ones, ``[B, T]``."""
    return (torch.arange(steps, device=lengths.device)[None] < lengths[:, None]).float()


def _gru(
    x: torch.Tensor,
    weights: Tensors,
    lengths: torch.Tensor,
    is_ragged: bool,
    gradients: bool,
    *,
    packed: bool,
) -> Contender:
    """Return ``torch.nn.GRU`` with the given weights, including the recurrent bias."""
    steps, depth = x.shape[1:]
    kernel, recurrent, bias, recurrent_bias = weights
    hidden = recurrent.shape[0]
    sign = torch.tensor([1.0, -1.0, 1.0], device=x.device)[:, None]
    module = torch.nn.GRU(depth, hidden, batch_first=True).to(x.device).train(gradients)
    none = torch.zeros_like(recurrent_bias)
    loaded = {
        "weight_ih_l0": (kernel * sign).flatten(1).T,
        "weight_hh_l0": (recurrent * sign).flatten(1).T,
        "bias_ih_l0": (bias * sign).flatten(),
        "bias_hh_l0": torch.cat([none, none, recurrent_bias]),
    }
    module.load_state_dict(loaded)
    x = x.clone().requires_grad_(gradients)
    on_cpu = lengths.cpu().long()  # as packing requires

    def states() -> torch.Tensor:
        if not packed:
            return module(x)[0]
        ragged = pack_padded_sequence(x, on_cpu, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(module(ragged)[0], batch_first=True, total_length=steps)[0]

    def as_jax(results: Tensors) -> Tensors:
        d_x, d_input, d_recurrent, d_bias, d_recurrent_bias = results
        return [
            d_x,
            d_input.T.reshape(depth, 3, hidden) * sign,
            d_recurrent.T.reshape(hidden, 3, hidden) * sign,
            d_bias.reshape(3, hidden) * sign,
            d_recurrent_bias[2 * hidden :],
        ]

    # Packing zeroes the states of dead steps itself.
    live = _mask(lengths, steps)[..., None] if is_ragged and not packed else None
    inputs = [x, *(getattr(module, name) for name in loaded)]
    return _contender(states, inputs, live, gradients, as_jax)


def augru_loop(
    gates: torch.Tensor,
    offset: torch.Tensor,
    slope: torch.Tensor,
    recurrent: torch.Tensor,
    bias: torch.Tensor,
    is_authors: bool,
) -> torch.Tensor:
    """Return states ``[T, B, H]`` from a zero initial state, for TorchScript.

    One step is ``h' = h + z o (c - h)`` with ``z = offset + slope o u``, which is 0 at a dead step.

    Args:
      gates: projected inputs with their biases, ``[T, B, 3 H]``.
      offset: ``[T, B, 1]``.
      slope: ``[T, B, 1]``.
      recurrent: ``[H, 3 H]``.
      bias: ``[H]``, added to the candidate's product in the paper's form.
      is_authors: the reset gate multiplies before the candidate's matmul, not after.
    """
    hidden = recurrent.shape[0]
    first, last = recurrent[:, : 2 * hidden], recurrent[:, 2 * hidden :]
    h = torch.zeros_like(gates[0, :, :hidden])
    states: list[torch.Tensor] = []
    # Unbind once: the gradient of an indexed step would be an array of all steps.
    steps = zip(gates.unbind(0), offset.unbind(0), slope.unbind(0))  # noqa: B905 TorchScript has none
    for inputs, base, factor in steps:
        x_r, x_u, x_c = inputs.chunk(3, 1)
        if is_authors:
            h_r, h_u = torch.mm(h, first).chunk(2, 1)
            c = torch.tanh(x_c + torch.mm(torch.sigmoid(x_r + h_r) * h, last))
        else:
            h_r, h_u, h_c = torch.mm(h, recurrent).chunk(3, 1)
            c = torch.tanh(x_c + torch.sigmoid(x_r + h_r) * (h_c + bias))
        h = h + (base + factor * torch.sigmoid(x_u + h_u)) * (c - h)
        states.append(h)
    return torch.stack(states)


def _augru(
    x: torch.Tensor,
    attention: torch.Tensor,
    weights: Tensors,
    lengths: torch.Tensor,
    is_ragged: bool,
    gradients: bool,
    form: str,
) -> Contender:
    """Return the loop in TorchScript, in either form."""
    with warnings.catch_warnings():  # deprecated for torch.compile, which would unroll the loop
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = torch.jit.script(augru_loop)
    live = _mask(lengths, x.shape[1])
    inputs = [part.clone().requires_grad_(gradients) for part in (x, attention, *weights)]

    def states() -> torch.Tensor:
        x, attention, kernel, recurrent, bias, *recurrent_bias = inputs
        gates = x.transpose(0, 1) @ kernel.flatten(1) + bias.flatten()
        if form == "authors":
            offset, slope = live, (attention - 1) * live
        else:
            offset, slope = torch.zeros_like(live), attention * live
        by_time = loop(
            gates,
            offset.T[..., None],
            slope.T[..., None],
            recurrent.flatten(1),
            recurrent_bias[0] if recurrent_bias else torch.zeros_like(bias[0]),
            form == "authors",
        )
        return by_time.transpose(0, 1)

    mask = live[..., None] if is_ragged else None
    return _contender(states, inputs, mask, gradients, lambda results: results)

"""Your own recurrence instead of AUGRU, compared with DIEN on the same data.

    python examples/own_cell.py [DATA] [--epochs N] [--seeds N]

DATA is a dataset folder; without it, users are simulated. The cell learns a decay rate for each
unit, and attention decides how much of a step enters the state; no gate reads the state.
docs/tutorial.md also ranks with such a model, exports it and serves it.
"""

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp

import dien_jax
from dien_jax.metrics import paired_seeds
from dien_jax.model import EVOLUTIONS
from dien_jax.preparation.sources import synthetic


class AttentionalDecay(nn.Module):
    """``h' = (1 - a d) o h + a d o tanh(x W + b)`` with a learnt rate d in (0, 1)."""

    hidden_size: int

    @nn.compact
    def __call__(
        self, x: jax.Array, attention: jax.Array, lengths: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return all states ``[B, T, H]`` and the last ones ``[B, H]``."""
        rate = jax.nn.sigmoid(self.param("rate", nn.initializers.zeros_init(), (self.hidden_size,)))
        candidate = nn.tanh(nn.Dense(self.hidden_size)(x))
        steps = jnp.arange(x.shape[1], dtype=lengths.dtype)
        live = (steps[None, :] < lengths[:, None]).astype(x.dtype)  # padding keeps the state
        gate = (attention * live)[..., None] * rate[None, None, :]

        def step(state: jax.Array, inputs: tuple) -> tuple[jax.Array, jax.Array]:
            gate_of_step, candidate_of_step = inputs
            state = (1 - gate_of_step) * state + gate_of_step * candidate_of_step
            return state, state

        first = jnp.zeros((x.shape[0], self.hidden_size), x.dtype)
        by_time = (gate.swapaxes(0, 1), candidate.swapaxes(0, 1))
        last, states = jax.lax.scan(step, first, by_time)
        return states.swapaxes(0, 1), last


EVOLUTIONS["attentional_decay"] = lambda config: AttentionalDecay(config.hidden_size)


def main(arguments: list[str] | None = None) -> None:
    """Train both models with each seed, and compare their test AUC."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--users", type=int, default=400, help="simulated users")
    options = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp())
    data = options.data or work / "data"
    if options.data is None:
        synthetic.prepare(synthetic.SyntheticOptions(out=data, users=options.users))
    base = dien_jax.preset("dien")
    base = dataclasses.replace(base, train=dataclasses.replace(base.train, epochs=options.epochs))
    areas: dict[str, list[float]] = {"augru": [], "attentional_decay": []}
    for name, of_model in areas.items():
        model = dataclasses.replace(base.model, evolution=name)
        config = dataclasses.replace(base, model=model)
        for seed in range(options.seeds):
            result = dien_jax.fit(config, data=data, run_dir=work / f"{name}-{seed}", seed=seed)
            of_model.append(result.test["auc"])
    for name, values in areas.items():
        print(f"{name:18} test AUC {' '.join(f'{value:.4f}' for value in values)}")
    difference = paired_seeds(areas["attentional_decay"], areas["augru"])
    if difference is not None:
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        print(f"difference {difference.value:+.4f} (95% interval over seeds {interval})")
    print(f"runs are in {work}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, dien_jax.UserError) as error:
        sys.exit(f"error: {error}")

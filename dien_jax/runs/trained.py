"""The trained model of a run: the best checkpoint of its folder, and its data."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.tables import FeatureTables
from dien_jax.errors import UserError
from dien_jax.model.logistic_regression import with_network_share
from dien_jax.model.logit_map import CALIBRATION
from dien_jax.runs.calibration import Calibration
from dien_jax.runs.checkpoints import Checkpoints, named_leaves
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, Run
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.state import TrainState, create_state, feature_tables
from dien_jax.utils.compile_cache import require_32_bits
from dien_jax.utils.json_values import Share, as_type

BEST_SHARE = "best_share"
"""The host's value of a checkpoint that is the share of the networks' logit."""


class TrainedModel(NamedTuple):
    """A trained model and the data that gives meaning to its ids.

    >>> from dien_jax import load_run
    >>> model = load_run("runs/first")
    >>> model.dataset.path.name
    'data'

    Attributes:
      run: settings, seed and data of the run.
      dataset: the data whose ids and features it knows.
      params: parameters, by Flax module.
      batch_stats: running statistics.
      step: step of the checkpoint.
      calibration: of the checkpoint's scores; None for a run without one.
    """

    run: Run
    dataset: Dataset
    params: Any
    batch_stats: Any
    step: int
    calibration: Calibration | None = None

    def logit_map(self, *, in_use: bool) -> dict[str, np.ndarray] | None:
        """Return the map that calibrates logits: for use, or for evaluation on its dataset."""
        return None if self.calibration is None else self.calibration.logit_map(in_use=in_use)

    def variables(self) -> dict[str, Any]:
        """Return the variables of ranking: those of the Flax model, and the map for use if any."""
        variables = {"params": self.params, "batch_stats": self.batch_stats}
        logit_map = self.logit_map(in_use=True)
        return variables if logit_map is None else variables | {CALIBRATION: logit_map}

    def feature_tables(self) -> FeatureTables:
        """Return the tables that scoring reads, on the device."""
        return feature_tables(self.dataset, self.run.config.model)


def load_run(run_dir: str | Path, data: str | Path | Dataset | None = None) -> TrainedModel:
    """Load the best checkpoint of a run.

    >>> from dien_jax import load_run
    >>> model = load_run("runs/first")
    >>> model.run.preset, sorted(model.params)[:2]
    ('dien', ['attention', 'auxiliary'])

    Args:
      run_dir: the run folder.
      data: dataset folder, or an open one, of the same features and vocabularies; by default the
        run's own, which must not have changed since.

    Raises:
      UserError: when the run, its checkpoint or the data cannot be read or do not fit.
    """
    folder = Path(run_dir)
    run = Run.load(folder)
    if data is None:
        data = open_dataset(Path(run.data))
        run.check_same_data(data)
    else:
        data = data if isinstance(data, Dataset) else open_dataset(Path(data))
        run.check_fits(data)
    step, state = restore_state(folder, run, data)
    calibration = Calibration.load(folder, step)
    params, batch_stats = jax.device_put((state.params, state.batch_stats))
    return TrainedModel(run, data, params, batch_stats, step, calibration)


def restore_state(folder: Path, run: Run, dataset: Dataset) -> tuple[int, TrainState]:
    """Return the step of the best checkpoint, and the whole training state in host memory.

    Its parameters have the share of the networks' logit that was best on validation. ``dataset``
    fits the run.
    """
    require_32_bits()
    checkpoints = Checkpoints(folder / CHECKPOINTS_FOLDER, read_only=True)
    best_step = checkpoints.best_step()
    if best_step is None:
        advice = f"continue the run with python -m dien_jax.train --resume {folder}"
        raise UserError(f"{folder} has no evaluated checkpoint yet; {advice}")
    place = OneDevice(dataset.schema)
    # Only the shapes: initialising a state compiles for seconds.
    shapes: Any = jax.eval_shape(lambda: create_state(run.config, dataset.schema, 1, run.seed))
    saved, host = checkpoints.restore(best_step, place.to_restore(shapes))
    state = place.in_rows(saved)
    used = {"params": state.params, "batch_stats": state.batch_stats}
    for name, array in named_leaves(used).items():
        if not np.isfinite(np.asarray(array)).all():
            path = checkpoints.best_path()
            raise UserError(f"the checkpoint {path} is damaged: {name} is not finite")
    share = as_type(host.get(BEST_SHARE), Share, f"{checkpoints.best_path()}, {BEST_SHARE}")
    return best_step, state._replace(params=with_network_share(state.params, share))

"""The trained model of a run: the best checkpoint of its folder, its data, and its scores."""

import functools
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dien_jax.config.settings import Config
from dien_jax.data.dataset import Dataset, open_dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.data.schema import UNKNOWN, Schema
from dien_jax.data.tables import Batch, FeatureTables
from dien_jax.errors import NotFiniteError, UserError
from dien_jax.metrics.scores import evaluate_scores
from dien_jax.model.family import cached_by_modules
from dien_jax.model.layers import CALIBRATION
from dien_jax.runs.calibration import Calibration, load_list_offsets
from dien_jax.runs.checkpoints import Checkpoints, named_leaves
from dien_jax.runs.folder import CHECKPOINTS_FOLDER, NAME_DATA, Run
from dien_jax.runs.list_weights import ListWeights
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import TrainState, create_state, feature_tables
from dien_jax.utils.console import stage
from dien_jax.utils.machine import require_usable_jax


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
      calibration: calibration of the checkpoint's scores; None for a run without one.
      list_offsets: float32 ``[items]``, see :func:`dien_jax.runs.calibration.list_offsets`; None
        for a run without them.
      list_weights: weights of the parts of a score in lists; None for a run without them.
    """

    run: Run
    dataset: Dataset
    params: Any
    batch_stats: Any
    step: int
    calibration: Calibration | None = None
    list_offsets: np.ndarray | None = None
    list_weights: ListWeights | None = None

    def __repr__(self) -> str:
        """Show preset, checkpoint and data; the arrays would fill the screen."""
        return f"TrainedModel({self.run.preset!r}, checkpoint {self.step}, {self.dataset!r})"

    def logit_map(self, *, in_use: bool) -> dict[str, np.ndarray] | None:
        """Return the calibration of logits, for use or for evaluation on the dataset."""
        return None if self.calibration is None else self.calibration.logit_map(in_use=in_use)

    def variables(self) -> dict[str, Any]:
        """Return the variables for ranking: those of the Flax model, and the calibration if any."""
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
    ('wide_dien', ['item_embeddings', 'mlp'])

    Args:
      run_dir: the run folder.
      data: dataset folder, or an open one, of the same features and vocabularies; by default the
        run's own, which must not have changed since.

    Raises:
      UserError: if the run, its checkpoint or the data cannot be read or do not fit.
    """
    folder = Path(run_dir)
    run = Run.load(folder)
    if data is None:
        data = run.open_data(folder, NAME_DATA)
    else:
        data = data if isinstance(data, Dataset) else open_dataset(Path(data))
        run.check_fits(data)
    jax.devices()  # a missing device is reported here, before JAX's tracing hides where it fails
    step, state = restore_state(folder, run, data, optimizer=False)
    calibration = Calibration.load(folder, step)
    offsets = load_list_offsets(folder, data.schema.num_items)
    params, batch_stats = jax.device_put((state.params, state.batch_stats))
    weights = ListWeights.load(folder, step)
    return TrainedModel(run, data, params, batch_stats, step, calibration, offsets, weights)


def restore_state(
    folder: Path, run: Run, dataset: Dataset, *, optimizer: bool = True
) -> tuple[int, TrainState]:
    """Return the step of the best checkpoint, and the training state in host memory.

    For ``optimizer`` see :meth:`Checkpoints.restore`.
    """
    require_usable_jax()
    checkpoints = Checkpoints(folder / CHECKPOINTS_FOLDER, read_only=True)
    place = OneDevice(dataset.schema)

    def read() -> tuple[int, TrainState]:
        if (best_step := checkpoints.best_step()) is None:
            advice = f"continue the run with python -m dien_jax.train --resume {folder}"
            raise UserError(f"{folder} has no evaluated checkpoint yet; {advice}")
        return best_step, checkpoints.restore(best_step, like, optimizer=optimizer)[0]

    like = place.to_restore(_shapes_of_state(run.config, dataset.schema))
    best_step, saved = checkpoints.settled(read)
    state = place.in_rows(saved)
    used = {"params": state.params, "batch_stats": state.batch_stats}
    for name, array in named_leaves(used).items():
        if not np.isfinite(np.asarray(array)).all():
            path = checkpoints.best_path()
            raise UserError(f"the checkpoint {path} is damaged: {name} is not finite")
    return best_step, state


@cached_by_modules
def _shapes_of_state(config: Config, schema: Schema) -> TrainState:
    """Return a state's shapes alone: initializing one would compile for seconds."""
    return jax.eval_shape(lambda: create_state(config, schema, 1, 0))


Predict = Callable[[Batch], jax.Array]
"""A function from a batch to its click probabilities ``[B]``."""


def score_batches(
    predict: Predict,
    loader: Loader,
    before_batch: Callable[[float], None] = lambda share: None,
    where: Callable[[int], str] = lambda example: f"example {example + 1:,}",
) -> np.ndarray:
    """Return the click probability of every example, float32 ``[n]``, in the split's order.

    ``loader`` has the order ``evaluation``; ``before_batch`` is called with the fraction of batches
    that are done, and may raise to stop. ``where`` describes an example, by its index, in the
    ``NotFiniteError`` of a score that is not finite.
    """
    scores = np.empty(loader.num_examples, np.float32)
    pending: list[tuple[np.ndarray, jax.Array]] = []
    with closing(loader.epoch(0)) as batches:
        for step, batch in enumerate(batches):
            before_batch(step / loader.steps_per_epoch)
            pending.append((loader.example_indices(0, step), predict(batch)))
            # Keep scores on the device, and fetch those of several batches together.
            if len(pending) == 16 or step + 1 == loader.steps_per_epoch:
                for examples, values in jax.device_get(pending):
                    scores[examples] = values = values[: len(examples)]
                    if len(wrong := np.flatnonzero(~np.isfinite(values))):
                        raise NotFiniteError(
                            f"the model's score of {where(int(examples[wrong[0]]))} is "
                            f"{values[wrong[0]]}, and {len(wrong)} of its batch are not finite: "
                            f"a parameter or a number among the inputs is too large"
                        )
                pending.clear()
    return scores


def scorer(trained: TrainedModel, *, in_use: bool) -> Predict:
    """Return a function that scores batches with a trained model, for use or for evaluation."""
    step = make_predict_step(trained.run.config, trained.dataset.schema)
    model = trained.params, trained.batch_stats, trained.feature_tables()
    return functools.partial(step, *model, logit_map=trained.logit_map(in_use=in_use))


class SplitScores(NamedTuple):
    """Scores of the examples of a split, in their order in the dataset.

    Attributes:
      labels: int8 ``[n]``, 1 for a click.
      scores: float32 ``[n]``, click probabilities.
      groups: int ``[n]``, the user of each example, for GAUC.
      known: bool ``[n]``, whether the candidate is known from training; None if all are.
    """

    labels: np.ndarray
    scores: np.ndarray
    groups: np.ndarray
    known: np.ndarray | None = None

    def metrics(self) -> dict[str, Any]:
        """Return AUC, GAUC, log loss and other metrics by name; None if undefined."""
        return evaluate_scores(*self)


def score_split(
    model: TrainedModel | str | Path,
    split: str = "test",
    *,
    data: str | Path | Dataset | None = None,
) -> SplitScores:
    """Score every example of a split with the best checkpoint of a run.

    >>> from dien_jax import resume, score_split
    >>> scored = score_split("runs/first", "test")
    >>> scored.scores.shape == scored.labels.shape
    True
    >>> scored.metrics() == resume("runs/first").test
    True

    Args:
      model: run folder, or a model that :func:`load_run` loaded.
      split: ``"train"``, ``"valid"`` or ``"test"``.
      data: dataset folder or open dataset, if ``model`` is a folder; the run's own by default.

    Raises:
      UserError: if the run or data cannot be read or do not fit, or the split is empty.
    """
    source = ""
    if not isinstance(model, TrainedModel):
        source = f" with {model}"
        model = load_run(model, data)
    elif data is not None:
        raise UserError("data belongs to load_run; a loaded model has its own")
    dataset = model.dataset
    if not (examples := len(dataset.splits[split].label)):
        raise UserError(f"{dataset.path} has no {split} examples to score")
    loader = evaluation_loader(dataset, split, model.run.config.train)
    with stage(f"scoring {examples:,} {split} examples of {dataset.path}{source}") as current:

        def show(share: float) -> None:
            current.share = share

        scores = score_batches(scorer(model, in_use=False), loader, show)
        return split_scores(dataset, split, scores)


def split_scores(dataset: Dataset, split: str, scores: np.ndarray) -> SplitScores:
    """Return the scores ``[n]`` of a split with its labels, users and known candidates."""
    examples = dataset.splits[split]
    known = np.asarray(examples.item) != UNKNOWN
    scored = SplitScores(np.array(examples.label), scores, np.array(examples.group), known)
    dataset.check_files()
    return scored

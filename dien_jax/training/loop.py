"""The training loop: steps, evaluations, early stopping, checkpoints.

A run is a function of (settings, data, seed): batch k of S an epoch is ``batch(k // S, k % S)``,
and step k draws from ``fold_in(key, k)``. So a checkpoint needs the train state and
:class:`Progress`, and a run continued from one ends with the parameters of a run that was never
stopped. Evaluations are due at fixed steps, and the checkpoint after one says that it was made.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader
from dien_jax.errors import Interrupted, NotFiniteError, UserError
from dien_jax.metrics.scores import selection_score
from dien_jax.runs.checkpoints import Checkpoints
from dien_jax.runs.folder import Run
from dien_jax.runs.scoring import evaluation_loader, measure, score_batches
from dien_jax.steps.optimizer import learning_rate
from dien_jax.steps.score import make_predict_step, make_summary_step
from dien_jax.steps.state import TrainState, create_state, device_tables
from dien_jax.steps.train import make_train_step
from dien_jax.training.progress import EXAMPLES, Progress, add, means
from dien_jax.training.reporter import Listener, Reporter

SAVE_SECONDS = 600.0
"""How much training a kill in the middle of a long epoch may cost."""

HISTOGRAM_ROWS = 65_536
"""Rows at most, evenly apart, that the histogram of an embedding table is drawn of."""


class Trainer:
    """One run, from its first step or its latest checkpoint to its result.

    Attributes:
      state: the train state; its arrays are donated at each step.
      progress: where the run is.
      steps_per_epoch: batches of an epoch.
      total_steps: steps at most; early stopping may end the run before.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        checkpoints: Checkpoints | None,
        stop_signal: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Prepares data and state on the device; goes back to the latest checkpoint if any.

        Args:
          run: settings and seed.
          dataset: the data.
          checkpoints: where states are kept; None keeps none, and then only
            :meth:`evaluations` is of use.
          stop_signal: asked before each batch; the number of a signal ends the run, once its
            state is saved.

        Raises:
          UserError: when a checkpoint cannot be read or does not fit the settings.
        """
        config, schema, train = run.config, dataset.schema, run.config.train
        self._dataset, self._config = dataset, config
        self._checkpoints, self._stop_signal = checkpoints, stop_signal
        self._loader = Loader(
            dataset,
            "train",
            batch_size=train.batch_size,
            buckets=train.buckets,
            max_history=train.max_history,
            seed=run.seed,
            order=train.order,
            shown=config.model.shown_negatives,
        )
        self.steps_per_epoch = self._loader.steps_per_epoch
        self.total_steps = self.steps_per_epoch * train.epochs
        self._validation = evaluation_loader(dataset, "valid", config)
        self._tables = device_tables(dataset, config)
        self._train_step = make_train_step(config, schema, self.steps_per_epoch)
        self._predict_step = make_predict_step(config, schema)
        self._summary_step = make_summary_step(config, schema)
        self._learning_rate = learning_rate(config.optim, self.steps_per_epoch, train.epochs)

        self.state = create_state(config, schema, self.steps_per_epoch, run.seed)
        self.progress = Progress()
        latest = None if checkpoints is None else checkpoints.latest_step()
        if checkpoints is not None and latest is not None:
            self.state, host = checkpoints.restore(latest, self.state)
            try:
                self.progress = Progress(**host)
            except TypeError as error:
                raise UserError(
                    f"the checkpoint of step {latest} is that of another version: {error}"
                ) from error
        self._saved_step = self.progress.step
        self._saved_at = self._started_at = time.perf_counter()
        self._earlier_seconds = self.progress.wall_seconds
        self._timed_from: float | None = None
        self._lengths_seen: set[int] = set()
        self._pending: list[dict[str, jax.Array]] = []  # metrics still on the device
        self._unreported: list[dict[str, float]] = []

    def start_from(self, state: TrainState) -> None:
        """Puts a given state in place of the fresh one, and saves it as that of step 0.

        Args:
          state: arrays of the shapes and types that the fresh one has.

        Raises:
          UserError: when the run folder cannot be written.
        """

        def put(value: Any, fresh: jax.Array) -> jax.Array:
            if value.shape != fresh.shape or value.dtype != fresh.dtype:
                raise ValueError(f"expected {fresh.dtype}{fresh.shape}, got {value.shape}")
            return jax.device_put(value, fresh.sharding)

        self.state = jax.tree.map(put, state, self.state)
        self._save(best=False)

    def run(self, reporter: Reporter) -> dict[str, Any]:
        """Trains to the end and measures the best checkpoint; the test set is used then only.

        Returns:
          ``steps``, ``epochs``, ``best_step``, the metrics of ``valid`` and ``test``,
          ``train_examples_per_second`` (None when nothing was timed) and ``wall_seconds``.

        Raises:
          Interrupted: when asked to stop; the state is saved.
          NotFiniteError: when the loss or a parameter is not finite; the checkpoints before stay.
          UserError: when the run folder cannot be written.
        """
        if self._checkpoints is None:
            raise ValueError("a run needs checkpoints: the best one is measured")
        for record in self.evaluations(reporter):
            reporter.evaluation(record)
            reporter.histograms(self.progress.step, self._summary())
            self._save(best=self.progress.best_step == self.progress.step)
        best, _ = self._checkpoints.restore(self.progress.best_step, self.state)
        measured = {}
        for split in ("valid", "test"):
            loader = evaluation_loader(self._dataset, split, self._config)
            scores = self._scores(loader, best.params, best.batch_stats)
            measured[split] = measure(self._dataset, split, scores)
        progress = self.progress
        return {
            "steps": progress.step,
            "epochs": progress.step / self.steps_per_epoch,
            "best_step": progress.best_step,
            **measured,
            "train_examples_per_second": self._speed(),
            "wall_seconds": self._wall_seconds(),
        }

    def evaluations(self, listener: Listener) -> Iterator[dict[str, Any]]:
        """Trains to the end, and stops at each evaluation; the test set is left alone.

        Args:
          listener: told how training goes between them.

        Yields:
          ``step``, ``epoch``, the training metrics since the last evaluation as ``train``, and
          those of the validation split as ``valid``.

        Raises:
          Interrupted, NotFiniteError, UserError: as :meth:`run`.
        """
        while not self.finished:
            self._train_until(self._next_evaluation(), listener)
            yield self._evaluate()

    @property
    def finished(self) -> bool:
        """Whether the last evaluation is made: all epochs are over, or patience is."""
        patience = self._config.train.patience
        return self.progress.evaluated_step == self.total_steps or (
            0 < patience <= self.progress.worse_evaluations
        )

    def _next_evaluation(self) -> int:
        interval = self._config.train.evaluate_every or self.steps_per_epoch
        return min((self.progress.evaluated_step // interval + 1) * interval, self.total_steps)

    def _train_until(self, target: int, listener: Listener) -> None:
        while self.progress.step < target:
            epoch, start = divmod(self.progress.step, self.steps_per_epoch)
            with closing(self._loader.epoch(epoch, start)) as batches:
                for batch in batches:
                    self._stop_if_asked()
                    self._step(batch, listener)
                    if self.progress.step == target:
                        break
        self._fetch()
        self._timed_from = None

    def _step(self, batch: Any, listener: Listener) -> None:
        length = batch.history.shape[1]
        compiles = length not in self._lengths_seen
        if compiles:  # left out of the speed: time up to here, and anew from the step's end
            self._fetch()
            self._timed_from = None
            self._lengths_seen.add(length)
        elif self._timed_from is None:
            self._timed_from = time.perf_counter()
        self.state, metrics = self._train_step(self.state, self._tables, batch)
        self._pending.append(metrics)
        self.progress.step += 1
        report = self.progress.step % self._config.train.log_every == 0
        if compiles or report:
            self._fetch()
        if report:
            self._report(listener)
            if time.perf_counter() - self._saved_at > SAVE_SECONDS:
                self._require_finite_state()
                self._save(best=False)

    def _fetch(self) -> None:
        """Waits for the steps taken, and reads their metrics."""
        rows = [
            {name: float(value) for name, value in row.items()}
            for row in jax.device_get(self._pending)
        ]
        now = time.perf_counter()
        first = self.progress.step - len(rows) + 1
        for step, row in enumerate(rows, start=first):
            if not math.isfinite(row["loss"]):
                raise self._not_finite(
                    f"the loss is not finite at step {step} ("
                    + ", ".join(
                        f"{name} {row[name]:g}"
                        for name in ("click_loss", "auxiliary_loss", "gradient_norm")
                    )
                    + ")"
                )
        self._pending.clear()
        self._unreported += rows
        totals = self.progress.totals
        for row in rows:
            add(totals, row)
        if self._timed_from is not None:
            self.progress.timed_seconds += now - self._timed_from
            self.progress.timed_examples += sum(row[EXAMPLES] for row in rows)
        self._timed_from = now

    def _report(self, listener: Listener) -> None:
        totals: dict[str, float] = {}
        for row in self._unreported:
            add(totals, row)
        self._unreported.clear()
        step = self.progress.step
        listener.progress(
            step,
            means(totals),
            examples_per_second=self._speed(),
            learning_rate=float(self._learning_rate(step - 1)),
        )

    def _evaluate(self) -> dict[str, Any]:
        self._require_finite_state()
        progress = self.progress
        scores = self._scores(self._validation, self.state.params, self.state.batch_stats)
        metrics = measure(self._dataset, "valid", scores)
        score = selection_score(metrics)
        assert score is not None  # the split has examples, so the log loss is defined
        better = progress.best_score is None or score > progress.best_score
        if better:
            progress.best_step, progress.best_score = progress.step, score
        progress.worse_evaluations = 0 if better else progress.worse_evaluations + 1
        progress.evaluated_step = progress.step
        record = {
            "step": progress.step,
            "epoch": progress.step / self.steps_per_epoch,
            "train": means(progress.totals),
            "valid": metrics,
        }
        progress.totals = {}
        return record

    def _scores(self, loader: Loader, params: Any, batch_stats: Any) -> np.ndarray:
        return score_batches(
            self._predict_step,
            params,
            batch_stats,
            self._tables,
            loader,
            self._stop_if_asked,
        )

    def _summary(self) -> dict[str, np.ndarray]:
        """What histograms show: embeddings, and for one validation batch states and attention."""
        params, batch = self.state.params, self._validation.batch(0, 0)
        summary = jax.device_get(
            self._summary_step(params, self.state.batch_stats, self._tables, batch)
        )
        live = np.arange(batch.history.shape[1]) < np.asarray(batch.lengths)[:, None]
        real = np.asarray(batch.weight) > 0
        values = {
            name: value[real if name == "final_state" else live] for name, value in summary.items()
        }
        for group in ("item", "user", "context"):
            for name, rows in params.get(f"{group}_embeddings", {}).items():
                stride = -(-len(rows) // HISTOGRAM_ROWS)
                values[f"{group}_embeddings/{name}"] = np.asarray(rows[::stride])
        return values

    def _stop_if_asked(self) -> None:
        number = self._stop_signal()
        if number is not None:
            self._fetch()
            if self._saved_step != self.progress.step:
                self._require_finite_state()
                self._save(best=False)
            raise Interrupted(number)

    def _save(self, *, best: bool) -> None:
        if self._checkpoints is None:
            return
        progress = self.progress
        progress.wall_seconds = self._wall_seconds()
        self._checkpoints.save(progress.step, self.state, dataclasses.asdict(progress), best=best)
        self._saved_step, self._saved_at = progress.step, time.perf_counter()
        self._timed_from = None

    def _require_finite_state(self) -> None:
        if not _all_finite((self.state.params, self.state.batch_stats, self.state.optimizer_state)):
            raise self._not_finite(
                f"a parameter, or what the optimiser keeps of it, is not finite after step "
                f"{self.progress.step}"
            )

    def _not_finite(self, what: str) -> NotFiniteError:
        optim = self._config.optim
        clip = "clipping by --optim.clip-norm 1"
        if optim.clip_norm is not None:
            clip = f"a lower --optim.clip-norm (now {optim.clip_norm:g})"
        kept = None if self._checkpoints is None else self._checkpoints.latest_step()
        return NotFiniteError(
            f"training stopped: {what}. Try a lower --optim.learning-rate (now "
            f"{optim.learning_rate:g}) or {clip}"
            + (f"; the checkpoint of step {kept} is kept" if kept is not None else "")
        )

    def _speed(self) -> float | None:
        progress = self.progress
        return progress.timed_examples / progress.timed_seconds if progress.timed_seconds else None

    def _wall_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started_at


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]).all()

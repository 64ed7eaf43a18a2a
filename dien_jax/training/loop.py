"""The training loop: steps, evaluations, early stopping, checkpoints.

A run is a function of (settings, data, seed): with S steps per epoch, step k trains on
``batch(k // S, k % S)`` and draws from ``fold_in(key, k)``. A checkpoint therefore needs only the
train state and :class:`Progress`, and a run resumed from one ends with the parameters of an
uninterrupted run. Evaluations are due at fixed steps, and the checkpoint after one records it.

A model with a tower is trained in two parts: the tower alone, for a few epochs, then the network
with the best tower, which is frozen. The network's logit starts at 0, so the best checkpoint may be
one of the tower alone.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import jax
import numpy as np

from dien_jax.data.dataset import Dataset
from dien_jax.data.loader import Loader, evaluation_loader
from dien_jax.devices import Placement
from dien_jax.errors import Interrupted, NotFiniteError
from dien_jax.metrics.intervals import auc_interval
from dien_jax.metrics.scores import auc, selection_score
from dien_jax.model.tower import Part
from dien_jax.runs.calibration import Calibration, fit_calibration
from dien_jax.runs.checkpoints import Checkpoints, restored
from dien_jax.runs.folder import Run
from dien_jax.runs.trained import score_batches, split_scores
from dien_jax.steps.optimizer import learning_rate, steps_of
from dien_jax.steps.placement import OneDevice
from dien_jax.steps.score import make_predict_step
from dien_jax.steps.state import (
    TrainState,
    all_finite,
    create_state,
    parts,
    require_step_memory,
    tower_of,
    training_tables,
)
from dien_jax.steps.train import make_train_step
from dien_jax.training.hosts import agreed_stop
from dien_jax.training.progress import EXAMPLES, Progress, StepReport, add_metrics, mean_metrics
from dien_jax.training.reporter import Reporter
from dien_jax.training.result import COUNTS_ALONE
from dien_jax.training.vectors import ItemVectors, item_vectors, started, with_vectors
from dien_jax.utils.processes import from_first, on_first

SAVE_SECONDS = 600.0
"""Maximum training time that is lost when a run is killed within a long epoch."""


class Trainer:
    """One run, from its first step or its latest checkpoint to its result.

    Several processes share ``checkpoints``; None saves nothing, and allows only
    :meth:`evaluations`. ``stop_signal`` is called before each batch; if it returns the number of a
    signal, the run saves its state and stops. The number of ``devices`` of all processes divides
    the batch size; () is the default device. ``vectors`` are those of a warm start.

    Attributes:
      state: the train state, on the devices; its arrays are donated at each step.
      progress: steps, evaluations and times so far.
      parameters: number of parameters.
      steps_per_epoch: batches of an epoch.
    """

    def __init__(
        self,
        run: Run,
        dataset: Dataset,
        checkpoints: Checkpoints | None,
        stop_signal: Callable[[], int | None] = lambda: None,
        devices: Sequence[jax.Device] = (),
        vectors: ItemVectors | None = None,
    ) -> None:
        config, schema, train = run.config, dataset.schema, run.config.train
        self._dataset, self._config = dataset, config
        self._checkpoints, self._stop_signal = checkpoints, agreed_stop(stop_signal)
        self.steps_per_epoch = -(-len(dataset.splits["train"].label) // train.batch_size)
        place = Placement(devices, schema) if len(devices) > 1 else OneDevice(schema)
        self._place, given = place, (config, schema, self.steps_per_epoch, place)
        names = parts(config.model)
        self._train = {part: make_train_step(*given, part) for part in names}
        self._predict = {part: make_predict_step(config, schema, place, part) for part in names}
        self._loader = Loader(
            dataset,
            "train",
            train,
            seed=run.seed,
            statistics=config.model.statistics,
            folds=config.model.initial_embeddings == "vectors",
            part=place.part,
        )
        longest = self._loader.padded_lengths[-1]
        require_step_memory(config, place, train.batch_size, longest)
        self._validation = evaluation_loader(dataset, "valid", train, place.part)

        self._started_at = time.perf_counter()
        self.state = create_state(config, schema, self.steps_per_epoch, run.seed, place)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(place.like(self.state.params)))
        self._tables = training_tables(dataset, config, place)  # after the larger state
        # A warm start keeps the tower of its source.
        has_tower = not config.model.statistics or run.warm_start is not None
        self.progress = Progress(network_from=0 if has_tower else None)
        self._best_tower: tuple[Any, Any] | None = None  # its parameters and running statistics
        latest = None if checkpoints is None else checkpoints.latest_step()
        if checkpoints is not None and latest is not None:
            self.state, host = restored(checkpoints, latest, self.state, place)
            self.progress = Progress.restored(host, latest, f"the checkpoint of step {latest}")
            if self.progress.part == "tower" and self.progress.best_step:
                self._best_tower = tower_of(self._best_checkpoint())
        if run.warm_start is None and config.model.initial_embeddings == "vectors":
            vectors = item_vectors(dataset, config)
        if vectors is not None:
            if latest is None:
                self.state = started(self.state, place, vectors)
            self._tables = with_vectors(self._tables, place, vectors)
        self._report_scoring: Callable[[str, int, float], None] = lambda *_: None
        self._saved_step = self.progress.step
        self._saved_at = time.perf_counter()
        self._earlier_seconds = self.progress.wall_seconds
        self._timed_from: float | None = None
        self._lengths_seen: set[int] = set()
        self._pending: list[dict[str, jax.Array]] = []  # metrics still on the device
        self._unreported: dict[str, float] = {}  # sums of training metrics

    def notes(self) -> list[str]:
        """Return lines about histories, devices and compilation, printed before the first step."""
        lines, loader, devices = [], self._loader, self._place.devices
        if loader.cut_histories:
            longest = loader.padded_lengths[-1]
            lines.append(
                f"{loader.cut_histories:,} of {loader.num_examples:,} training examples have more "
                f"than train.max_history {longest} behaviours; only the latest {longest} are read"
            )
        lengths = ", ".join(map(str, loader.padded_lengths))
        if devices > 1:
            names = ", ".join(name for _, name in self._place.layouts)
            tables = f"rows of {names} are split over them" if names else "no table is split"
            share = self._config.train.batch_size // devices
            lines.append(f"{share:,} examples of a batch on each of {devices} devices; {tables}")
        return [*lines, f"compiling the train step for histories padded to {lengths} takes a while"]

    def start_from(self, trained: tuple[Any, Any, Any] | None) -> None:
        """Start from parameters, statistics and slots of process 0, and save them as step 0.

        They have the form and the shapes of one device.
        """
        arrays = self._place.put(trained, self.state[:3])
        self.state = TrainState._make((*arrays, *self.state[3:]))
        self._save(best=False)

    def _best_checkpoint(self) -> TrainState:
        """Return the state of the best checkpoint, without optimizer state."""
        at: Any = self._checkpoints, self.progress.best_step, self.state, self._place
        return restored(*at, optimizer=False)[0]

    def run(self, reporter: Reporter) -> dict[str, Any]:
        """Train to the end, then measure the best checkpoint; only this uses the test set.

        Returns:
          ``calibration`` or None, ``baselines`` (the test AUC of the tower, if there is one),
          ``steps``, ``epochs``, ``best_step``, the metrics of ``valid`` and ``test`` with
          calibrated scores, ``intervals`` (95% intervals of their AUC),
          ``train_examples_per_second`` (None when nothing was timed) and ``wall_seconds``.

        Raises:
          Interrupted: after a stop signal; the state is saved.
          NotFiniteError: a loss, the gradient or a parameter is not finite. Checkpoints are kept.
        """
        if self._checkpoints is None:
            raise ValueError("run() needs checkpoints: it measures the best one")
        self._report_scoring = reporter.scoring
        for record in self.evaluations(reporter.progress):
            on_first(functools.partial(reporter.evaluation, record))
            if record["part"] != self.progress.part:  # the network's steps are compiled next
                reporter.note(self.notes()[-1])
            self._save(best=self.progress.best_step == self.progress.step)
        progress = self.progress
        best = self._best_checkpoint()
        calibration = self._calibration(best)
        measured, intervals = {}, {}
        labels = {name: np.asarray(self._dataset.splits[name].label) for name in ("valid", "test")}
        for split in labels:
            scores = self._scores(split, best, calibration)
            measured[split] = self._metrics(split, scores)
            intervals[split] = from_first(functools.partial(auc_interval, labels[split], scores))
        baselines = {}
        if self._config.model.statistics:
            alone = self._scores("test", best, part="tower")
            baselines[COUNTS_ALONE] = from_first(lambda: auc(labels["test"], alone))
        return {
            "calibration": calibration,
            "baselines": baselines,
            "steps": progress.step,
            "epochs": progress.step / self.steps_per_epoch,
            "best_step": progress.best_step,
            "intervals": intervals,
            **measured,
            "train_examples_per_second": progress.examples_per_second,
            "wall_seconds": self._wall_seconds(),
        }

    def evaluations(self, listener: Callable[[StepReport], None]) -> Iterator[dict[str, Any]]:
        """Train to the end and yield each :class:`~dien_jax.runs.folder.Evaluation`.

        ``listener`` receives the progress between evaluations.
        """
        interval = self._config.train.evaluate_every or self.steps_per_epoch
        while not self._finished:
            due = (self.progress.evaluated_step // interval + 1) * interval
            self._train_until(min(due, self._part_end), listener)
            record = self._evaluate()
            if self.progress.part == "tower" and self.progress.step == self._part_end:
                self._begin_network()
            yield record

    @property
    def _finished(self) -> bool:
        """True after the last evaluation: all epochs are done, or early stopping applies."""
        if self.progress.part == "tower":
            return False
        stops = 0 < self._config.train.patience <= self.progress.worse_evaluations
        return stops or self.progress.evaluated_step == self._part_end

    @property
    def _part_end(self) -> int:
        """The last step of the part in training; early stopping may end it earlier."""
        steps = steps_of(self._config, self.steps_per_epoch, self.progress.part)
        return (self.progress.network_from or 0) + steps

    def _begin_network(self) -> None:
        """Replace the last tower with the best one; from here on, train the network."""
        assert self._best_tower is not None
        (params, batch_stats), state = self._best_tower, self.state
        self.state = state._replace(
            params={**state.params, **params}, batch_stats={**state.batch_stats, **batch_stats}
        )
        self._best_tower = None
        self._lengths_seen.clear()
        self.progress.begin_network()

    def _train_until(self, target: int, listener: Callable[[StepReport], None]) -> None:
        while self.progress.step < target:
            epoch, start = divmod(self.progress.step, self.steps_per_epoch)
            with closing(self._loader.epoch(epoch, start)) as batches:
                for batch in batches:
                    self.stop_if_asked()
                    self._step(batch, listener)
                    if self.progress.step == target:
                        break
        self._fetch()
        self._timed_from = None

    def _step(self, batch: Any, listener: Callable[[StepReport], None]) -> None:
        length = batch.history.shape[1]
        compiles = length not in self._lengths_seen
        if compiles:  # not part of the speed: stop the clock, and restart it after the step
            self._fetch()
            self._timed_from = None
            self._lengths_seen.add(length)
        elif self._timed_from is None:
            self._timed_from = time.perf_counter()
        train = self._train[self.progress.part]
        self.state, metrics = train(self.state, self._tables, self._place.put_batch(batch))
        self._pending.append(metrics)
        self.progress.step += 1
        report = self.progress.step % self._config.train.log_every == 0
        if compiles or report:
            self._fetch()
        if report:
            self._report(listener)
            if from_first(lambda: time.perf_counter() - self._saved_at > SAVE_SECONDS):
                self._require_finite_state()
                self._save(best=False)

    def _fetch(self) -> None:
        """Wait for pending steps, and read their metrics."""
        rows = jax.tree.map(float, jax.device_get(self._pending))
        now = time.perf_counter()
        for step, row in enumerate(rows, start=self.progress.step - len(rows) + 1):
            names = ("loss", "click_loss", "auxiliary_loss", "gradient_norm")
            if not all(math.isfinite(row[name]) for name in names):
                values = ", ".join(f"{name} {row[name]:g}" for name in names)
                problem = f"a loss or the gradient is not finite at step {step}"
                raise self._not_finite(f"{problem} ({values})")
            add_metrics(self._unreported, row)
            add_metrics(self.progress.totals, row)
        self._pending.clear()
        if self._timed_from is not None:
            self.progress.timed_seconds += now - self._timed_from
            self.progress.timed_examples += sum(row[EXAMPLES] for row in rows)
        self._timed_from = now

    def _report(self, listener: Callable[[StepReport], None]) -> None:
        metrics, self._unreported = mean_metrics(self._unreported), {}
        step, speed = self.progress.step, self.progress.examples_per_second
        rates = learning_rate(self._config, self.steps_per_epoch, self.progress.part)
        rate = float(rates(step - 1 - (self.progress.network_from or 0)))
        listener(StepReport(step, self._part_end, metrics, speed, rate))

    def _evaluate(self) -> dict[str, Any]:
        self._require_finite_state()
        progress = self.progress
        metrics = self.validate()
        score = selection_score(metrics)
        assert score is not None  # the split has examples, so the log loss is defined
        record = {
            "step": progress.step,
            "epoch": progress.step / self.steps_per_epoch,
            "part": progress.part,
            "train": mean_metrics(progress.totals),
            "valid": metrics,
        }
        if progress.evaluated(score) and progress.part == "tower":
            self._best_tower = tower_of(self.state)
        return record

    def validate(self) -> dict[str, Any]:
        """Return validation metrics of the state; of the tower alone while it is trained."""
        return self._metrics("valid", self._scores("valid", self.state, part=self.progress.part))

    def _metrics(self, split: str, scores: np.ndarray) -> dict[str, Any]:
        return from_first(lambda: split_scores(self._dataset, split, scores).metrics())

    def _calibration(self, best: TrainState) -> Calibration | None:
        """Return the calibration of the best checkpoint, fitted on the validation split."""
        train = self._config.train
        if not train.calibrate:
            return None
        labels, scores = self._dataset.splits["valid"].label, self._scores("valid", best)
        given = labels, scores, self.progress.best_step, train.click_rate
        return Calibration(**from_first(lambda: dataclasses.asdict(fit_calibration(*given))))

    def _scores(
        self,
        split: str,
        state: TrainState,
        calibration: Calibration | None = None,
        part: Part = "network",
    ) -> np.ndarray:
        """Return the scores of a split: of the whole model, or of the tower alone.

        A run that calibrates always maps logits, so calibrated scores need no compilation.
        """
        if calibration is None and self._config.train.calibrate:
            calibration = Calibration(1.0, 0.0, self.progress.step)  # which changes no score
        logit_map = None if calibration is None else calibration.logit_map(in_use=False)
        loader = self._validation
        if split != "valid":
            loader = evaluation_loader(self._dataset, split, self._config.train, self._place.part)

        def watch(done: float) -> None:
            self.stop_if_asked()
            self._report_scoring(split, loader.num_examples, done)

        model = state.params, state.batch_stats, self._tables.features
        step = functools.partial(self._predict[part], *model, logit_map=logit_map)
        put, readable = self._place.put_batch, self._place.readable
        return score_batches(lambda batch: readable(step(put(batch))), loader, watch)

    def stop_if_asked(self) -> None:
        """Save the state and raise ``Interrupted`` after a stop signal."""
        if (number := self._stop_signal()) is not None:
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
        host = dataclasses.asdict(progress)
        self._checkpoints.save(progress.step, self._place.to_save(self.state), host, best=best)
        self._saved_step, self._saved_at = progress.step, time.perf_counter()
        self._timed_from = None

    def _require_finite_state(self) -> None:
        if not all_finite(self.state):
            problem = "a parameter or its optimizer state is not finite"
            raise self._not_finite(f"{problem} after step {self.progress.step}")

    def _not_finite(self, problem: str) -> NotFiniteError:
        kept = None if self._checkpoints is None else self._checkpoints.latest_step()
        note = "" if kept is None else f"; the checkpoint of step {kept} is kept"
        rate = f"--optim.learning-rate (now {self._config.optim.learning_rate:g})"
        return NotFiniteError(f"training stopped: {problem}. Try a lower {rate}{note}")

    def _wall_seconds(self) -> float:
        return self._earlier_seconds + time.perf_counter() - self._started_at

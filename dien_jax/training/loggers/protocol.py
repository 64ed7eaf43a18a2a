"""The protocol of loggers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

HISTOGRAM_BINS = 64


@runtime_checkable
class Logger(Protocol):
    """A destination of what a run reports.

    Calls come from one thread, in the order of the methods; :meth:`close` may come after any of
    them. Names of scalars and histograms have slashes, such as ``train/loss``.
    """

    def begin(self, settings: Mapping[str, Any], restored_step: int) -> None:
        """Begin with a run's settings by name, or go on after a step; 0 for a fresh run.

        Reports of steps after ``restored_step`` come again. A setting may be None or a tuple.
        """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log finite numbers by name."""

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Log distributions of values by name: float64 ``[N]``, finite, N at least 1."""

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """Log the metrics of the best checkpoint, that of ``step``, and files of the run.

        This may come twice, with the same content, for a run that was killed as it ended.
        """

    def close(self, error: BaseException | None) -> None:
        """End; ``error`` is what ended the run before its result, if anything did."""


class Forwarding:
    """A :class:`Logger` that does something with each call, by its name and its arguments."""

    def _call(self, name: str, *arguments: Any) -> None:
        raise NotImplementedError

    def begin(self, settings: Mapping[str, Any], restored_step: int) -> None:
        """See :class:`Logger`."""
        self._call("begin", settings, restored_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See :class:`Logger`."""
        self._call("scalars", step, values)

    def histograms(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """See :class:`Logger`."""
        self._call("histograms", step, values)

    def finish(self, step: int, metrics: Mapping[str, float], files: Sequence[Path]) -> None:
        """See :class:`Logger`."""
        self._call("finish", step, metrics, files)

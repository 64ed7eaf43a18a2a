"""Metrics in the format of Prometheus."""

from functools import partial

import prometheus_client

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histograms of times."""


class Metrics:
    """Counters, gauges and histograms of one server, all named ``dien_...``."""

    def __init__(self) -> None:
        self._registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        counter = partial(prometheus_client.Counter, registry=registry)
        gauge = partial(prometheus_client.Gauge, registry=registry)
        histogram = partial(prometheus_client.Histogram, registry=registry)
        seconds = partial(histogram, buckets=SECONDS)
        self.requests = counter("dien_requests", "Requests answered.", ("path", "status"))
        self.request_seconds = seconds(
            "dien_request_seconds", "Time from request headers to complete response.", ("path",)
        )
        self.queue_seconds = seconds("dien_queue_seconds", "Time of requests in the queue.")
        self.batch_seconds = seconds("dien_batch_seconds", "Time to rank a batch.")
        self.batch_size = histogram(
            "dien_batch_size", "Requests ranked in one batch.", buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.queue_depth = gauge("dien_queue_depth", "Requests waiting in the queue.")
        self.candidates = counter("dien_candidates", "Candidates ranked.")
        self.unknown = counter("dien_unknown_ids", "Unknown ids and values.", ("kind",))
        self.remembered = gauge("dien_remembered_users", "Remembered users.")
        self.reloads = counter("dien_reloads", "Reloads of the model.", ("result",))
        self.step = gauge("dien_checkpoint_step", "Training step of the checkpoint in use.")
        self.ready = gauge("dien_ready", "1 if the server is ready to rank, else 0.")
        for kind in ("history", "candidate", "context"):
            self.unknown.labels(kind)
        for result in ("ok", "failed"):
            self.reloads.labels(result)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return prometheus_client.generate_latest(self._registry)

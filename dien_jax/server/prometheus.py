"""What the server tells Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Figures:
    """Counters, gauges and histograms of one server, all named ``dien_...``."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def seconds(name: str, what: str, labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, what, labels, buckets=SECONDS, registry=registry)

        self.requests = Counter(
            "dien_requests", "Requests answered.", ("path", "status"), registry=registry
        )
        self.request_seconds = seconds(
            "dien_request_seconds", "From the head of a request to its whole answer.", ("path",)
        )
        self.queue_seconds = seconds("dien_queue_seconds", "What requests waited for their turn.")
        self.batch_seconds = seconds("dien_batch_seconds", "What ranking a batch took.")
        self.batch_size = Histogram(
            "dien_batch_size",
            "Requests that were ranked together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.queue_depth = Gauge("dien_queue_depth", "Requests that wait.", registry=registry)
        self.candidates = Counter("dien_candidates", "Candidates ranked.", registry=registry)
        self.unknown = Counter(
            "dien_unknown_ids", "Ids and values that training did not know.", ("kind",),
            registry=registry,
        )  # fmt: skip
        self.remembered = Gauge("dien_remembered_users", "Users remembered.", registry=registry)
        self.reloads = Counter(
            "dien_reloads", "Checkpoints that replaced another, or could not.", ("result",),
            registry=registry,
        )  # fmt: skip
        self.step = Gauge("dien_checkpoint_step", "Step of the checkpoint.", registry=registry)
        self.ready = Gauge("dien_ready", "1 when requests are ranked.", registry=registry)
        for kind in ("history", "candidate", "context"):
            self.unknown.labels(kind)
        for result in ("ok", "failed"):
            self.reloads.labels(result)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

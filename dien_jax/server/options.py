"""Options of the server."""

import threading
from dataclasses import dataclass
from pathlib import Path

from dien_jax.errors import UserError

MODEL_THREAD = "current model"
"""Name of the thread that compiles and reloads models."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of :func:`serve`; each is a flag of ``python -m dien_jax.serve``.

    >>> from pathlib import Path
    >>> from dien_jax.server import ServerOptions
    >>> ServerOptions(Path("runs/first"), port=0).max_batch
    16
    """

    run: Path
    """Run folder of dien_jax.train, or file written by dien_jax.export."""
    data: Path | None = None
    """Dataset folder, if not the one that the run was trained on."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all addresses of this machine."""
    port: int = 8000
    """Port to listen on; 0 for any free port."""
    queue: int = 256
    """Maximum number of waiting requests; further ones are answered with status 429."""
    max_batch: int = 16
    """Maximum number of requests ranked in one batch."""
    max_candidates: int = 1000
    """Maximum number of candidates in a request."""
    max_history: int = 1000
    """Maximum number of events in a request's history; the model uses the latest ones."""
    max_body: int = 2**20
    """Maximum size of a request body in bytes."""
    max_users: int = 1000
    """Maximum number of remembered users; the least recently used are forgotten first."""
    separator: str = "|"
    """Separator of the values of a multi-valued context feature sent as one string."""
    poll_seconds: float = 30.0
    """Seconds between checks for a newer checkpoint; 0 to check on SIGHUP only."""
    drain_seconds: int = 30
    """Maximum time in seconds to finish running requests after SIGTERM."""
    log_requests: bool = False
    """Log each request as a line of JSON."""

    def check(self) -> None:
        """Raise a :class:`UserError` that names the flag of a value out of range."""
        positive = (
            "queue", "max_batch", "max_candidates", "max_history", "max_body", "max_users",
            "drain_seconds",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.poll_seconds < threading.TIMEOUT_MAX:
            raise UserError(f"--poll-seconds must be 0 or more, got {self.poll_seconds}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port must be 0 to 65535, got {self.port}")
        if not self.separator:
            raise UserError("--separator must not be empty")

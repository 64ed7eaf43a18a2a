"""Options of the server."""

from dataclasses import dataclass
from pathlib import Path

from dien_jax.errors import UserError

MODEL_THREAD = "current model"
"""Name of the thread that compiles and reloads models."""
MAX_ID_LENGTH = 1024
"""Maximum number of characters of an id in a request."""
RANGES = {
    "port": (0, 65_535),
    "queue": (1, 100_000),
    "max_batch": (1, 1024),
    "max_candidates": (1, 100_000),
    "max_history": (1, 100_000),
    "max_body": (1, 2**30),
    "max_users": (1, 1_000_000),
    "poll_seconds": (0, 604_800),
    "drain_seconds": (1, 86_400),
}
"""Lowest and highest value of each numeric option."""


@dataclass(frozen=True)
class ServerOptions:
    """Options of :func:`serve`; each is a flag of ``python -m dien_jax.serve``.

    >>> from pathlib import Path
    >>> from dien_jax.server import ServerOptions
    >>> ServerOptions(Path("runs/first"), port=0).max_batch
    16
    """

    run: Path
    """Run folder of dien_jax.train, or file written by dien_jax.export, which is trusted like
    code."""
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
        for name, (lowest, highest) in RANGES.items():
            value = getattr(self, name)
            if not lowest <= value <= highest:  # NaN is in no range
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be {lowest:,} to {highest:,}, got {value!s:.40}")
        if not self.host:
            raise UserError("--host must not be empty; 0.0.0.0 is all addresses of this machine")
        if not self.separator:
            raise UserError("--separator must not be empty")

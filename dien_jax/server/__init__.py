"""The HTTP server: application, messages, batching of requests, hot reload, metrics.

Training and preparation do not belong here; flags are in ``dien_jax/serve.py``. The web libraries
of the extra ``serve`` are imported when a server is started.
"""

from dien_jax.server.run import ServerOptions, serve

__all__ = ["ServerOptions", "serve"]

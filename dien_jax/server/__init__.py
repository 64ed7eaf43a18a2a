"""The HTTP server: application, messages, batching of requests, hot reload, metrics.

Training and preparation do not enter; flags stay in ``dien_jax/serve.py``.
"""

"""Events of the programs that this process compiles, to be counted."""

import jax

COMPILED: list[str] = []

jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: COMPILED.append(name) if "backend_compile" in name else None
)

"""The processes of a run: texts that they exchange, and errors that all of them raise.

All processes run the same program, so each has to know the decisions of the others, and none may
wait for one that has stopped. Texts go through the service of ``jax.distributed``, not through
devices: a process may wait for another for any time, and devices need not be initialized.

With one process nothing is exchanged, and ``jax.distributed`` need not be started.
"""

import itertools
import json
from collections.abc import Callable
from typing import Any, TypeVar

from dien_jax.errors import NotFiniteError, UserError, described

Result = TypeVar("Result")

LONGEST_WAIT = 30 * 24 * 3600 * 1000
"""Milliseconds to wait for a text. A process that has ended is noticed by ``jax.distributed``."""

_numbers = itertools.count()


class SharedError(UserError):
    """A :class:`UserError` that every process of the run raises."""


def _service() -> Any:
    """Return the state of ``jax.distributed``: JAX has no public access to its key-value store."""
    from jax._src import distributed  # here, so that importing dien_jax.utils does not import jax

    return distributed.global_state


def count() -> int:
    """Return the number of processes of the run, without initializing devices."""
    service = _service()
    return 1 if service.client is None else service.num_processes


def index() -> int:
    """Return the number of this process, 0 for the one that writes and prints."""
    return _service().process_id if count() > 1 else 0


def exchange(text: str) -> list[str]:
    """Return a text of each process, in their order. Every process has to call this."""
    processes = count()
    if processes == 1:
        return [text]
    client, number, own = _service().client, next(_numbers), index()
    client.key_value_set(f"dien_jax/{number}/{own}", json.dumps(text))  # ASCII
    keys = [f"dien_jax/{number}/{process}" for process in range(processes)]
    texts = [json.loads(client.blocking_key_value_get(key, LONGEST_WAIT)) for key in keys]
    if number:  # all processes are at this exchange, so all have read the one before
        client.key_value_delete(f"dien_jax/{number - 1}/{own}")
    return texts


def on_each(work: Callable[[], Result]) -> Result:
    """Return the result of a function that every process calls; an error of one is raised by all.

    Raises:
      SharedError: for a :class:`UserError` or an error of files or memory on any process, with the
        number of the process if it is another one.
      NotFiniteError: if any process raises it.
    """
    if count() == 1:
        return work()
    return _shared(work, lambda result: "")[0]


def on_first(work: Callable[[], Result]) -> Result | None:
    """Call a function on process 0, and return its result there; its error is raised by all."""
    return on_each(work if index() == 0 else lambda: None)


def from_first(work: Callable[[], Result]) -> Result:
    """Return on every process the result of a function on process 0, which must be JSON values."""
    if count() == 1:
        return work()
    is_first = index() == 0
    result, texts = _shared(work if is_first else lambda: None, json.dumps)
    return result if is_first else json.loads(texts[0])


def agree(values: dict[str, str]) -> None:
    """Refuse values that differ between processes; a :class:`SharedError` names the first."""
    first, *others = (json.loads(text) for text in _shared(lambda: values, json.dumps)[1])
    for process, theirs in enumerate(others, start=1):
        for name in sorted(first | theirs):
            if first.get(name) != theirs.get(name):
                both = f"{first.get(name)} on process 0 and {theirs.get(name)} on process {process}"
                raise SharedError(f"the processes of a run must agree: {name} is {both}")


def check_counts() -> None:
    """Refuse processes with different settings of the number of processes."""
    client, prefix = _service().client, "dien_jax/processes"
    client.key_value_set(f"{prefix}/{index()}", str(count()))
    first = client.blocking_key_value_get(f"{prefix}/0", LONGEST_WAIT)
    for process in range(1, int(first)):  # the number that process 0 has
        theirs = client.blocking_key_value_get(f"{prefix}/{process}", LONGEST_WAIT)
        if theirs != first:
            found = f"{first} on process 0 and {theirs} on process {process}"
            raise SharedError(
                f"distributed.processes must be the same on every process, found {found}"
            )


def _shared(work: Callable[[], Any], as_text: Callable[[Any], str]) -> tuple[Any, list[str]]:
    """Return the result of a function, and each process's result as text; all have to call this."""
    result, error, text = None, None, ""
    try:
        result = work()
        text = as_text(result)
    except SharedError:
        raise  # from an exchange within the function: all processes raise it
    except (UserError, NotFiniteError, OSError, MemoryError) as problem:
        error = problem
    mine = ["", ""] if error is None else [type(error).__name__, described(error)]
    answers = [json.loads(answer) for answer in exchange(json.dumps([*mine, text]))]
    if isinstance(error, NotFiniteError):
        raise error
    if error is not None:
        raise SharedError(mine[1]) from error
    for process, (kind, message, _) in enumerate(answers):
        if kind == NotFiniteError.__name__:
            raise NotFiniteError(message)
        if kind:
            raise SharedError(f"process {process}: {message}")
    return result, [answer[2] for answer in answers]

"""Answers to the pieces of a table, kept until all are written, so that a stopped command resumes.

The file ``.NAME.answers`` next to the table that is written has a line for what the answers depend
on, and one for each piece.
"""

import contextlib
import hashlib
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from dien_jax._version import __version__
from dien_jax.utils.console import say
from dien_jax.utils.files import is_written_into


class Answers:
    """Answers of an earlier, stopped command, and a file for those of this one.

    ``about`` is what the answers depend on, a value that pickle can write. Answers are values of
    JSON.
    """

    def __init__(self, file: Path | None, about: Any) -> None:
        whole = pickle.dumps((__version__, about))
        self._file, self._about = file, hashlib.sha256(whole).hexdigest()
        self._stream: TextIO | None = None
        self._found = self._read()
        self.is_ours = False  # else another process may be writing the file

    def next(self) -> Any:
        """Return the answer to the next piece, or None if that is not known."""
        self.is_ours = True
        return next(self._found, None)

    def keep(self, answer: Any) -> None:
        """Keep the answer to a piece; all known ones must have been read before."""
        if self._file is None:
            return
        if self._stream is None:
            self._stream = self._file.open("w", encoding="ascii")
            self._write(self._about)
        self._write(answer)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()

    def _write(self, value: Any) -> None:
        assert self._stream is not None
        self._stream.write(json.dumps(value) + "\n")
        self._stream.flush()

    def _read(self) -> Iterator[Any]:
        """Yield the known answers; keep the file open after the last of them, to add more."""
        if self._file is None or not self._file.is_file():
            return
        stream = self._file.open("r+", encoding="ascii", errors="replace")
        end = 0
        while (line := stream.readline()).endswith("\n"):  # a line that was cut off ends the file
            try:
                value = json.loads(line)
            except ValueError:
                break
            if end:
                yield value
            elif value != self._about:
                break
            else:
                say("resuming: the answers of a stopped command are used")
            end = stream.tell()
        stream.seek(end)
        stream.truncate()
        self._stream = stream
        if not end:
            self._write(self._about)


@contextlib.contextmanager
def kept_answers(out: Path, about: Any) -> Iterator[Answers]:
    """Yield the answers for a table to write; remove them unless a signal ends the block.

    Nothing is kept for an ``out`` that is a device or a pipe.
    """
    file = None
    if not is_written_into(out):
        target = Path(os.path.realpath(out))
        file = target.with_name(f".{os.fsdecode(os.fsencode(target.name)[:200])}.answers")
        if file.is_symlink():
            file.unlink()
    answers, is_stopped = Answers(file, about), False
    try:
        yield answers
    except KeyboardInterrupt:
        is_stopped = True
        raise
    finally:
        if file is not None and answers.is_ours and not is_stopped:
            file.unlink(missing_ok=True)
        answers.close()


def state_of(*paths: Path) -> list[tuple[str, int, int]]:
    """Return name, size and time of change of files, and of all files in folders."""
    inside = [file for path in paths if path.is_dir() for file in sorted(path.rglob("*"))]
    found = []
    for file in (*paths, *inside):
        with contextlib.suppress(FileNotFoundError):  # a run replaces its checkpoints
            stat = file.stat()
            if not file.is_dir():
                found.append((str(file), stat.st_size, stat.st_ctime_ns))
    return found

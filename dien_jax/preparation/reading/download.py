"""Files from the web, whole or not at all, in the user's cache folder.

    DOWNLOADS/<folder>/NAME             a whole file
    DOWNLOADS/<folder>/NAME.sha256.json its sha256 when it was first seen, and where it came from
    DOWNLOADS/<folder>/NAME.part        what has come of a file so far
    DOWNLOADS/<folder>/NAME.part.json   which version of the file that is the beginning of

DOWNLOADS is ``$XDG_CACHE_HOME/dien_jax/downloads``, ``~/.cache/dien_jax/downloads`` where that is
not set. A download that was cut off goes on where it stopped when the server can do that and still
has the same version of the file, told by its ETag or the time of its last change (RFC 9110, 13 and
14); else it starts anew. A file is fetched once. One whose sha256 is not what was first seen is
refused, on this machine; nobody publishes what the sha256 of most of these files should be.
"""

import contextlib
import datetime
import json
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError

from dien_jax._version import __version__
from dien_jax.errors import UserError
from dien_jax.utils.console import Stage, say, stage
from dien_jax.utils.files import atomic_file, user_cache
from dien_jax.utils.text_files import sha256

CHUNK = 1 << 18
"""Bytes read at once, at most."""
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Statuses after which it is worth trying again."""
LONGEST_PAUSE = 60.0


class Patience(NamedTuple):
    """How long to put up with a server.

    Attributes:
      stall_seconds: without a single byte before a connection is given up.
      attempts: that bring nothing before the download is.
      pause_seconds: before the second attempt; doubled before each later one.
    """

    stall_seconds: float = 60.0
    attempts: int = 5
    pause_seconds: float = 2.0


PATIENCE = Patience()


class Remote(NamedTuple):
    """A file that is published on the web.

    Attributes:
      url: where.
      folder: of the cache, for the files of one set.
      terms: under which terms, in words and with an address.
      page: where people find it.
      by_hand: the flags that name the file once it was fetched otherwise.
    """

    url: str
    folder: str
    terms: str
    page: str
    by_hand: str

    @property
    def name(self) -> str:
        """Of the file."""
        return self.url.rsplit("/", 1)[1]


class Found(NamedTuple):
    """A whole file on this machine, and the sha256 of it."""

    file: Path
    sha256: str


class _AttemptError(Exception):
    """An attempt came to nothing, or not to its end; the next one may do better."""


def downloads() -> Path:
    """The folder that holds all downloads; it need not exist."""
    return user_cache() / "downloads"


def given(file: Path) -> Found:
    """A file that the user named.

    Raises:
      UserError: when it cannot be read.
    """
    with stage(f"computing the sha256 of {file.name}"):
        return Found(file, sha256(file))


def fetch(remote: Remote, patience: Patience | None = None) -> Found:
    """The file, from the cache folder or, once, from the web.

    Args:
      remote: which.
      patience: with the server; ``PATIENCE`` unless given.

    Raises:
      UserError: when the server does not have the file or cannot be reached, again and again, the
        cache folder cannot be written, or the file is not what it was when first seen.
    """
    file = downloads() / remote.folder / remote.name
    part = _beside(file, ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone_in(file.parent):
            if file.exists():
                say(f"{file} was downloaded before")
            else:
                say(f"{remote.name}: {remote.terms}")
                try:
                    _download(remote, part, patience or PATIENCE)
                except KeyboardInterrupt:
                    say(f"  kept {part}: the same command goes on from there")
                    raise
            found = file if file.exists() else part
            with stage(f"computing the sha256 of {remote.name}"):
                digest = sha256(found)
            _compare(remote, found, file, digest)
            if found == part:
                part.replace(file)
                _beside(part, ".json").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {file.parent}: {error.strerror or error}") from error
    return Found(file, digest)


def _beside(file: Path, ending: str) -> Path:
    return file.with_name(file.name + ending)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process downloads to the folder."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with stage(f"waiting for another process that downloads to {folder}"):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _compare(remote: Remote, found: Path, file: Path, digest: str) -> None:
    """Refuses a file that is not what was first seen; records one that is seen for the first time.

    Raises:
      UserError: naming both, and what to delete.
    """
    record = _beside(file, ".sha256.json")
    seen = _read_json(record)
    if seen is None:
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        what = {"sha256": digest, "url": remote.url, "bytes": found.stat().st_size}
        _write_json(record, {**what, "first_seen": today})
    elif seen.get("sha256") != digest:
        raise UserError(
            f"{found} has the sha256 {digest}, but it was {seen.get('sha256')} when first seen, on "
            f"{seen.get('first_seen')}: it was damaged, or {remote.url} holds something else now. "
            f"Delete {found} to fetch it again, or {record} to take what is there"
        )


def _download(remote: Remote, part: Path, patience: Patience) -> None:
    """Brings the part to its full length, in as many attempts as it takes.

    Raises:
      UserError: when the server refuses, or too many attempts in a row bring nothing.
      OSError: when the part cannot be written.
    """
    failures, pause = 0, patience.pause_seconds
    with stage(f"downloading {remote.url}") as current:
        while True:
            before = _length(part)
            try:
                _attempt(remote, part, patience.stall_seconds, current)
                return
            except _AttemptError as failure:
                brought = _length(part) > before
                failures, pause = (1, patience.pause_seconds) if brought else (failures + 1, pause)
                if failures >= patience.attempts:
                    kept = "What came before is kept: the same command goes on from there. "
                    raise UserError(
                        f"{remote.url}: {failure}; {failures} attempts in a row brought nothing. "
                        f"{kept * bool(_length(part))}{_by_hand(remote)}"
                    ) from failure
                current.note = f"{failure}; trying again in {pause:.0f} s"
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _by_hand(remote: Remote) -> str:
    return f"Or get {remote.name} from {remote.page} and name it with {remote.by_hand}"


def _attempt(remote: Remote, part: Path, stall_seconds: float, current: Stage) -> None:
    """One request: appends what comes to the part.

    Raises:
      _AttemptError: when the part is not whole yet.
      UserError: when no further attempt would help.
      OSError: when the part cannot be written.
    """
    version = _read_json(_beside(part, ".json")) or {}
    start = _length(part) if version.get("etag") or version.get("last_modified") else 0
    if start and start == version.get("bytes"):
        return
    headers = {"User-Agent": f"dien_jax/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = version.get("etag") or version["last_modified"]
    with _open(remote, headers, stall_seconds, part) as response:
        if response.status == 206:
            _check_continues(response, version, start, part)
        else:  # the whole file: the first time, another version, or a server without ranges
            start = 0
            part.write_bytes(b"")
            version = _version(response)
            _write_json(_beside(part, ".json"), version)
        total = version["bytes"]
        free = shutil.disk_usage(part.parent).free
        if total is not None and free < total - start:
            raise UserError(
                f"{part.parent} has {_size(free)} free, but {remote.name} needs "
                f"{_size(total - start)} more"
            )
        with part.open("ab") as stream:
            length, begin = start, time.monotonic()
            for chunk in _chunks(response):
                stream.write(chunk)
                length += len(chunk)
                speed = (length - start) / max(time.monotonic() - begin, 1e-3)
                of = f" of {_size(total)}" if total else ""
                current.note = f"{_size(length)}{of}, {_size(int(speed))}/s"
                current.share = length / total if total else None
    if total is not None and length < total:
        raise _AttemptError(f"the connection was closed after {length:,} of {total:,} bytes")


def _open(
    remote: Remote, headers: dict[str, str], stall_seconds: float, part: Path
) -> HTTPResponse:
    request = urllib.request.Request(remote.url, headers=headers)
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=stall_seconds)
    except HTTPError as error:
        error.close()
        status = f"the server answered {error.code} {error.reason}"
        if error.code == 416:  # there is nothing after what is here: not the same file
            part.unlink(missing_ok=True)
        elif error.code not in PASSING:
            raise UserError(f"{remote.url}: {status}. {_by_hand(remote)}") from error
        raise _AttemptError(status) from error
    except (OSError, HTTPException) as error:
        raise _AttemptError(_reason(error)) from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise UserError(
            f"{remote.url}: the server answered with a web page, not the file. {_by_hand(remote)}"
        )
    return response


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes: what has come before a failure is not lost."""
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except (HTTPException, OSError) as error:
        raise _AttemptError(_reason(error)) from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server sent nothing for too long"
    return f"the connection failed ({getattr(cause, 'strerror', None) or cause or repr(cause)})"


def _version(response: HTTPResponse) -> dict[str, Any]:
    """Which version of the file an answer holds; weak ETags say nothing about bytes."""
    etag, length = response.headers["ETag"], response.headers["Content-Length"]
    return {
        "etag": etag if etag and not etag.startswith("W/") else None,
        "last_modified": response.headers["Last-Modified"],
        "bytes": int(length) if length else None,
    }


def _check_continues(
    response: HTTPResponse, version: dict[str, Any], start: int, part: Path
) -> None:
    """Refuses a rest that is not that of the beginning which is here, and drops the beginning.

    Servers should not send it, as the request names the version, but some do.

    Raises:
      _AttemptError: when they did.
    """
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers["Content-Range"] or "")
    now = _version(response)
    same = all(version[name] == now[name] for name in ("etag", "last_modified") if now[name])
    if found and found[2] != "*" and version["bytes"] is not None:
        same = same and int(found[2]) == version["bytes"]
    if not (found and int(found[1]) == start and same):
        part.unlink(missing_ok=True)
        raise _AttemptError("the file changed on the server while it was fetched")


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _read_json(file: Path) -> dict[str, Any] | None:
    """The object in a file, or None without one.

    Raises:
      UserError: when the file is damaged.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete it") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged (no object); delete it")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    with atomic_file(file) as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")

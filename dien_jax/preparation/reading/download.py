"""Downloads into the user's cache folder, resumed after interruptions.

    DOWNLOADS/<folder>/NAME             a complete file
    DOWNLOADS/<folder>/NAME.sha256.json its sha256 when it was first seen, and its address
    DOWNLOADS/<folder>/NAME.part        the part of a file that has been received so far
    DOWNLOADS/<folder>/NAME.part.json   the version of the file that the part belongs to

A download is resumed if the server supports ranges and still has the same version of the file,
by its ETag or the time of its last change (RFC 9110, 13 and 14). A file whose sha256 differs from
the one first seen on this machine is refused; most of these files have no published sha256.
Redirects stay on one host and on https. No more is received than the server announced, and never
more than ``MAX_BYTES``.
"""

import contextlib
import datetime
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from dien_jax._version import __version__
from dien_jax.errors import UserError, writing
from dien_jax.utils.console import Stage, say, stage
from dien_jax.utils.files import read_json, user_cache, write_json
from dien_jax.utils.json_values import LargeCount
from dien_jax.utils.text_files import sha256

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}  # statuses after which an attempt may succeed
LONGEST_PAUSE = 60.0
MAX_BYTES = 64 * 10**9  # several times the largest file of the sources
ALIBABA_TERMS = "by Alibaba, for research, under the terms that its page shows after the login"


class Patience(NamedTuple):
    """Limits on waiting for a server."""

    stall_seconds: float = 60.0  # time without a single byte after which a connection is closed
    attempts: int = 5  # consecutive attempts without progress after which the download fails
    pause_seconds: float = 2.0  # pause before the second attempt; doubled before each later one


PATIENCE = Patience()


class Remote(NamedTuple):
    """A file that is published on the web."""

    url: str  # its address
    folder: str  # subfolder of the cache
    terms: str  # terms of use, in words and with an address
    page: str  # web page on which people find it
    by_hand: str  # flags that name the file once it was fetched by hand

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def alternative(self) -> str:
        return f"Or get {self.name} from {self.page} and name it with {self.by_hand}"


class LocalFile(NamedTuple):
    """A complete file on this machine, and its sha256."""

    file: Path
    sha256: str


class _AttemptError(Exception):
    """A failure that may be temporary."""


class _FirstSeen(TypedDict):
    """Content of ``NAME.sha256.json``, as far as it is read again."""

    sha256: str
    first_seen: str


class _Version(TypedDict):
    """Content of ``NAME.part.json``."""

    etag: str | None
    last_modified: str | None
    bytes: LargeCount | None


_NO_VERSION = _Version(etag=None, last_modified=None, bytes=None)
Record = TypeVar("Record", _FirstSeen, _Version)


def downloads() -> Path:
    """Return the folder of all downloads."""
    return user_cache() / "downloads"


def given(file: Path, name: str = "") -> LocalFile:
    """Return a file with its sha256; ``name`` is shown in place of its own."""
    with stage(f"computing the sha256 of {name or file.name}"):
        return LocalFile(file, sha256(file))


def fetch(remote: Remote, patience: Patience | None = None) -> LocalFile:
    """Return a file from the cache folder; download it there first if necessary.

    Raises:
      UserError: when the server does not have the file or repeatedly cannot be reached, the cache
        folder cannot be written, or the file differs from the one first seen.
    """
    file = downloads() / remote.folder / remote.name
    part = _with_suffix(file, ".part")
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file.parent):
            if file.exists():
                say(f"{file} was downloaded before")
            else:
                say(f"{remote.name}: {remote.terms}")
                try:
                    _download(remote, part, patience or PATIENCE)
                except KeyboardInterrupt:
                    say(f"  kept {part}; run the same command again to resume")
                    raise
            complete = file if file.exists() else part
            digest = given(complete, remote.name).sha256
            _check_first_seen(remote, complete, _with_suffix(file, ".sha256.json"), digest)
            if complete == part:
                part.replace(file)
                _with_suffix(part, ".json").unlink(missing_ok=True)
    return LocalFile(file, digest)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads to the folder."""
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


def _check_first_seen(remote: Remote, file: Path, record: Path, digest: str) -> None:
    """Refuse a file that differs from the one first seen; record a file seen for the first time."""
    if not record.exists():
        entry = {"sha256": digest, "url": remote.url, "bytes": file.stat().st_size}
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        write_json(record, {**entry, "first_seen": today})
    elif (seen := _read_record(record, _FirstSeen))["sha256"] != digest:
        before = f"{seen['sha256']} when first seen, on {seen['first_seen']}"
        raise UserError(
            f"{file} has the sha256 {digest}, but it was {before}: it is damaged, or {remote.url} "
            f"has changed. Delete {file} to fetch it again, or {record} to accept this file"
        )


def _download(remote: Remote, part: Path, patience: Patience) -> None:
    """Complete the part, in as many attempts as it takes."""
    failures, pause = 0, patience.pause_seconds
    with stage(f"downloading {remote.url}") as current:
        while True:
            before = _length(part)
            try:
                _attempt(remote, part, patience.stall_seconds, current)
                return
            except _AttemptError as failure:
                progress = _length(part) > before
                failures, pause = (1, patience.pause_seconds) if progress else (failures + 1, pause)
                if failures >= patience.attempts:
                    kept = "The part received so far is kept: run the same command to resume. "
                    advice = f"{kept * bool(_length(part))}{remote.alternative}"
                    attempts = f"no progress in {failures} consecutive attempts"
                    raise UserError(f"{remote.url}: {failure}; {attempts}. {advice}") from failure
                current.note = f"{failure}; trying again in {pause:.0f} s"
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _attempt(remote: Remote, part: Path, stall_seconds: float, current: Stage) -> None:
    """Send one request and append the answer to the part; ``_AttemptError`` if it is cut off."""
    record = _with_suffix(part, ".json")
    version = _read_record(record, _Version) if record.exists() else _NO_VERSION
    validator = version["etag"] or version["last_modified"]
    start = _length(part) if validator else 0
    if start and start == version["bytes"]:
        return
    headers = {"User-Agent": f"dien_jax/{__version__}", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(validator)}
    with _open(remote, headers, stall_seconds, part) as response:
        if response.status == 206:
            _check_continuation(response, version, start, part)
        else:  # complete file: the first request, another version, or a server without ranges
            start = 0
            part.write_bytes(b"")
            version = _version(response)
            write_json(record, {**version})
        total = version["bytes"]
        limit = MAX_BYTES if total is None else total
        if limit > MAX_BYTES:
            raise _too_large(remote, part, f"{_size(limit)} are announced", MAX_BYTES)
        free = shutil.disk_usage(part.parent).free
        if total is not None and free < total - start:
            needed = f"{remote.name} needs {_size(total - start)} more"
            raise UserError(f"{part.parent} has {_size(free)} free, but {needed}")
        with part.open("ab") as stream:
            length, begin = start, time.monotonic()
            while chunk := _read(response):
                length += len(chunk)
                if length > limit:
                    raise _too_large(remote, part, "the server sends more", limit)
                stream.write(chunk)
                speed = (length - start) / max(time.monotonic() - begin, 1e-3)
                of_total = f" of {_size(total)}" if total else ""
                current.note = f"{_size(length)}{of_total}, {_size(int(speed))}/s"
                current.share = length / total if total else None
    if total is not None and length < total:
        raise _AttemptError(f"the connection was closed after {length:,} of {total:,} bytes")


def _too_large(remote: Remote, part: Path, found: str, limit: int) -> UserError:
    """Delete the part; return the error."""
    part.unlink(missing_ok=True)
    problem = f"{found}, expected at most {_size(limit)}"
    return UserError(f"{remote.url}: {problem}. {remote.alternative}")


class _SameHost(HTTPRedirectHandler):
    """Follow redirects that keep the host and https."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        ports = ("http", "https", None), ("http", "http", old.port), ("https", "https", old.port)
        if new.hostname != old.hostname or (old.scheme, new.scheme, new.port) not in ports:
            fp.close()
            raise UserError(
                f"{self._remote.url}: the server redirects to {newurl[:200]!r}; redirects are "
                f"followed on the same host only, and not from https to http. "
                f"{self._remote.alternative}"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(remote: Remote, headers: dict[str, str], stall: float, part: Path) -> HTTPResponse:
    request, opener = Request(remote.url, headers=headers), build_opener(_SameHost(remote))
    try:
        response: HTTPResponse = opener.open(request, timeout=stall)
    except HTTPError as error:
        error.close()
        status = f"the server answered {error.code} {str(error.reason).partition(chr(10))[0]}"
        if error.code == 416:  # nothing follows the part: it belongs to another file
            part.unlink(missing_ok=True)
        elif error.code not in TRANSIENT:
            raise UserError(f"{remote.url}: {status}. {remote.alternative}") from error
        raise _AttemptError(status) from error
    except (OSError, HTTPException) as error:
        raise _AttemptError(_reason(error)) from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        answer = "the server answered with a web page, not the file"
        raise UserError(f"{remote.url}: {answer}. {remote.alternative}")
    return response


def _read(response: HTTPResponse) -> bytes:
    """Return bytes as they arrive, so that those before a failure are kept."""
    try:
        return response.read1(1 << 18)
    except (HTTPException, OSError) as error:
        raise _AttemptError(_reason(error)) from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server sent nothing for too long"
    return f"the connection failed ({getattr(cause, 'strerror', None) or cause or repr(cause)})"


def _version(response: HTTPResponse) -> _Version:
    """Return the version of the file in an answer, without weak ETags, which ignore bytes."""
    etag, length = response.headers["ETag"], response.headers["Content-Length"]
    return {
        "etag": etag if etag and not etag.startswith("W/") else None,
        "last_modified": response.headers["Last-Modified"],
        "bytes": int(length) if length and re.fullmatch("[0-9]{1,15}", length) else None,
    }


def _check_continuation(response: HTTPResponse, version: _Version, start: int, part: Path) -> None:
    """Delete the part if the answer does not continue it: some servers ignore ``If-Range``."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers["Content-Range"] or "")
    now = _version(response)
    names: tuple[Literal["etag", "last_modified"], ...] = ("etag", "last_modified")
    same = all(version[name] == now[name] for name in names if now[name])
    if span and span[2] != "*" and version["bytes"] is not None:
        same = same and int(span[2]) == version["bytes"]
    if not (span and int(span[1]) == start and same):
        part.unlink(missing_ok=True)
        raise _AttemptError("the file changed on the server during the download")


def _read_record(file: Path, kind: Callable[..., Record]) -> Record:
    try:
        return read_json(file, kind)
    except UserError as error:
        raise UserError(f"{error}; delete it") from error


def _with_suffix(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _size(count: int) -> str:
    sizes = {"GB": 10**9, "MB": 10**6, "kB": 10**3}
    fitting = (f"{count / size:.1f} {unit}" for unit, size in sizes.items() if count >= size)
    return next(fitting, f"{count} bytes")

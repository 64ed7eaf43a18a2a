"""Downloads into the user's cache folder.

    DOWNLOADS/<folder>/NAME         a complete file
    DOWNLOADS/<folder>/NAME.sha256  its sha256 when first seen, in the format of ``sha256sum``

A file whose sha256 differs from the one first seen on this machine is refused; most of these files
have no published sha256. A failed download restarts from the first byte.
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

from dien_jax._version import __version__
from dien_jax.errors import UserError, reason, writing
from dien_jax.utils.console import Stage, say, stage
from dien_jax.utils.files import atomic_path, locked, user_cache, write_text
from dien_jax.utils.text_files import sha256

CHUNK = 1 << 18
TRANSIENT = {408, 425, 429}  # statuses below 500 that are worth a retry
ALIBABA_TERMS = "by Alibaba, for research, under the terms that its page shows after the login"


class Remote(NamedTuple):
    """A file that is published on the web."""

    url: str  # its address
    folder: str  # subfolder of the cache
    terms: str  # summary of the terms of use, with an address
    page: str  # web page that offers it
    by_hand: str  # flags that take the file if it was downloaded by hand

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


class LocalFile(NamedTuple):
    """A complete file on this machine, and its sha256."""

    file: Path
    sha256: str


def given(file: Path) -> LocalFile:
    """Return a file with its sha256."""
    with stage(f"computing the sha256 of {file.name}"):
        return LocalFile(file, sha256(file))


def fetch(remote: Remote, *, retries: int = 3, stall_seconds: float = 60.0) -> LocalFile:
    """Return a file from the cache folder; download it there first if necessary.

    Wait 1, 2 and so on seconds before each of the ``retries``. An attempt fails after
    ``stall_seconds`` without a byte. Raise ``UserError`` for a file that cannot be downloaded, or
    differs from the one first seen.
    """
    folder = user_cache() / "downloads" / remote.folder
    file, record = folder / remote.name, folder / f"{remote.name}.sha256"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder, str(folder), wait=True):
            seen = record.read_text().split(" ")[0] if record.exists() else None
            if file.exists():
                say(f"{file} was downloaded before")
            else:
                say(f"{remote.name}: {remote.terms}")
                _download(remote, file, retries, stall_seconds)
            digest = given(file).sha256
            if seen is None:
                write_text(record, f"{digest}  {remote.name}\n")
            elif digest != seen:
                problem = f"{file} has the sha256 {digest}, but it was {seen} when first seen"
                cause = f"it is damaged, or {remote.url} has changed"
                advice = f"Delete {file} to fetch it again, or {record} to accept this file"
                raise UserError(f"{problem}: {cause}. {advice}")
    return LocalFile(file, digest)


def _download(remote: Remote, file: Path, retries: int, stall_seconds: float) -> None:
    import requests  # from the extra data

    headers = {"User-Agent": f"dien_jax/{__version__}", "Accept-Encoding": "identity"}
    options: Any = {"stream": True, "timeout": stall_seconds, "headers": headers}
    options["hooks"] = {"response": _check_answer}
    with stage(f"downloading {remote.url}") as current:
        for attempt in range(1 + retries):
            time.sleep(attempt)
            try:
                with requests.get(remote.url, **options) as answer:
                    answer.raise_for_status()
                    _save(answer, file, current)
                return
            except (UserError, requests.RequestException) as error:
                problem = error
                if isinstance(error, UserError):
                    break  # a retry is useless
    by_hand = f"Or get {remote.name} from {remote.page} and name it with {remote.by_hand}"
    raise UserError(f"{remote.url}: {reason(problem)}. {by_hand}") from problem


def _save(answer: Any, file: Path, current: Stage) -> None:
    length = answer.headers.get("Content-Length", "")
    done, total = 0, int(length) if length.isdecimal() else 0
    of_total = f" of {total / 1e6:,.1f}" if total else ""
    with atomic_path(file) as partial, partial.open("wb") as stream:
        for chunk in answer.iter_content(CHUNK):
            stream.write(chunk)
            done += len(chunk)
            current.note = f"{done / 1e6:,.1f}{of_total} MB"
            current.share = min(done / total, 1.0) if total else None


def _check_answer(answer: Any, **_: object) -> None:
    """Refuse a response that is not the file, before it is read; called for redirects too."""
    target, problem = answer.headers.get("Location", ""), ""
    if answer.url.startswith("https:") and target.lower().startswith("http:"):
        problem = f"the server redirects to {target[:200]}, without https"
    elif 400 <= answer.status_code < 500 and answer.status_code not in TRANSIENT:
        problem = f"the server answered {answer.status_code} {answer.reason}"
    elif answer.ok and not target and "html" in answer.headers.get("Content-Type", ""):
        problem = "the server answered with a web page, not the file"
    if problem:
        answer.close()
        raise UserError(problem)

"""Downloads into the user's cache folder, by pooch.

    DOWNLOADS/<folder>/NAME         a complete file
    DOWNLOADS/<folder>/NAME.sha256  its sha256 when it was first seen, as ``sha256sum`` writes it

A file whose sha256 differs from the one first seen on this machine is refused; most of these files
have no published sha256. A download that fails begins again, from the first byte.
"""

from pathlib import Path
from typing import Any, NamedTuple

from dien_jax._version import __version__
from dien_jax.errors import UserError, reason, writing
from dien_jax.utils.console import Stage, say, stage
from dien_jax.utils.files import locked, user_cache, write_text
from dien_jax.utils.text_files import sha256

CHUNK = 1 << 18
TRANSIENT = {408, 425, 429}
"""Statuses below 500 after which another attempt may succeed."""
ALIBABA_TERMS = "by Alibaba, for research, under the terms that its page shows after the login"


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

    Pauses of 1, 2 and so on seconds precede ``retries``. An attempt fails after ``stall_seconds``
    without a single byte.

    Raises:
      UserError: when the server does not have the file or repeatedly cannot be reached, the cache
        folder cannot be written, or the file differs from the one first seen.
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
                raise UserError(
                    f"{file} has the sha256 {digest}, but it was {seen} when first seen: it is "
                    f"damaged, or {remote.url} has changed. Delete {file} to fetch it again, or "
                    f"{record} to accept this file"
                )
    return LocalFile(file, digest)


def _download(remote: Remote, file: Path, retries: int, stall_seconds: float) -> None:
    import pooch  # of the extra data
    import requests

    for left in file.parent.glob("tmp*"):  # by processes that were killed
        left.unlink()
    pooch.get_logger().setLevel("WARNING")
    headers = {"User-Agent": f"dien_jax/{__version__}", "Accept-Encoding": "identity"}
    answers: list[requests.Response] = []  # pooch leaves one that breaks off open
    hooks: list[Any] = [lambda answer, **_: answers.append(answer), _check_answer]
    request: dict[str, Any] = {"timeout": stall_seconds, "headers": headers}
    request["hooks"] = {"response": hooks}
    registry = pooch.create(
        file.parent,
        base_url="",
        registry={file.name: None},
        urls={file.name: remote.url},
        retry_if_failed=retries,
    )
    try:
        with stage(f"downloading {remote.url}") as current:

            def download(url: str, target: str, pooch_: Any) -> None:
                pooch.HTTPDownloader(_Progress(current), CHUNK, **request)(url, target, pooch_)

            registry.fetch(file.name, downloader=download)
    except (_RefusedError, ValueError, requests.RequestException) as error:
        by_hand = f"Or get {remote.name} from {remote.page} and name it with {remote.by_hand}"
        raise UserError(f"{remote.url}: {reason(error)}. {by_hand}") from error
    finally:
        for answer in answers:
            answer.close()


class _RefusedError(Exception):
    """An answer that another attempt does not change."""


def _check_answer(response: Any, **_: object) -> None:
    """Refuse an answer that is not the file, before it is read; called for redirects too."""
    target = response.headers.get("Location", "")
    if response.url.startswith("https:") and target.startswith("http:"):
        raise _RefusedError(f"the server redirects to {target[:200]}, without https")
    if 400 <= response.status_code < 500 and response.status_code not in TRANSIENT:
        raise _RefusedError(f"the server answered {response.status_code} {response.reason}")
    if response.ok and not target and "html" in response.headers.get("Content-Type", ""):
        raise _RefusedError("the server answered with a web page, not the file")


class _Progress:
    """The progress of one attempt, called as tqdm is."""

    def __init__(self, current: Stage) -> None:
        self._current, self._done, self.total = current, 0, 0

    def update(self, count: int) -> None:
        self._done += count
        of_total = f" of {self.total / 1e6:,.1f}" if self.total else ""
        self._current.note = f"{self._done / 1e6:,.1f}{of_total} MB"
        self._current.share = min(self._done / self.total, 1.0) if self.total else None

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Do nothing: the stage ends by itself."""

"""Downloads from a server that stalls, cuts and redirects."""

import hashlib
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.programs import free_port
from support.web import Web, cut, page, redirect, stall, status, unmeasured, web_server

from dien_jax.errors import UserError
from dien_jax.preparation.reading import download
from dien_jax.preparation.reading.download import LocalFile, Remote
from dien_jax.utils.files import locked


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dien_jax" / "downloads" / "set"


def fetch(web: Web) -> LocalFile:
    remote = Remote(f"{web.url}/data.gz", "set", "for research: TERMS", "PAGE", "--from")
    return download.fetch(remote, retries=2, stall_seconds=0.3)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".lock")


def test_a_file_is_fetched_once_recorded_and_found_again(web, folder, capsys):
    folder.mkdir(parents=True)
    (folder / ".data.gz.partial-7").write_bytes(b"half of a fi")  # of a process that was killed
    fetched = fetch(web)
    assert fetched.file == folder / "data.gz"
    assert fetched.file.read_bytes() == web.content
    assert fetched.sha256 == hashlib.sha256(web.content).hexdigest()
    assert (folder / "data.gz.sha256").read_text() == f"{fetched.sha256}  data.gz\n"
    assert names(folder) == ["data.gz", "data.gz.sha256"]
    out, err = capsys.readouterr()
    assert out == ""
    assert err.index("data.gz: for research: TERMS") < err.index("downloading")
    assert "0.1 of 0.1 MB" in err
    assert fetch(web) == fetched
    assert len(web.requests) == 1
    assert web.requests[0]["Accept-Encoding"] == "identity"
    assert "was downloaded before" in capsys.readouterr().err


@pytest.mark.parametrize("trouble", [stall(50_000), cut(50_000), status(500), status(429)])
def test_a_passing_error_is_tried_again(web, trouble):
    web.plan = [trouble, redirect("/elsewhere/data.gz"), unmeasured]
    assert fetch(web).file.read_bytes() == web.content
    assert web.paths == ["/data.gz", "/data.gz", "/elsewhere/data.gz"]


@pytest.mark.parametrize(
    ("answer", "requests", "message"),
    [
        (status(404), 1, "the server answered 404 Not Found"),
        (status(403), 1, "the server answered 403 Forbidden"),
        (page, 1, "the server answered with a web page, not the file"),
        (status(503), 3, "503 Server Error"),
        (cut(50_000), 3, "50000 bytes read, 52400 more expected"),
        (stall(50_000), 3, "Read timed out"),
    ],
)
def test_a_file_that_does_not_come_is_one_line(answer, requests, message, web, folder):
    web.plan = [answer] * 3
    with pytest.raises(UserError) as caught:
        fetch(web)
    assert str(caught.value).startswith(f"{web.url}/data.gz: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith("Or get data.gz from PAGE and name it with --from")
    assert "\n" not in str(caught.value)
    assert len(web.requests) == requests
    assert names(folder) == []


def test_no_server_is_one_line(web):
    web.url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UserError, match=f"{web.url}/data.gz: .*refused"):
        fetch(web)


@pytest.mark.parametrize("target", ["http://a.test/x", "HTTP://a.test/x"])
def test_a_redirect_never_leaves_https(target):
    answer = Mock(url="https://a.test/x", headers={"Location": target}, status_code=302)
    with pytest.raises(UserError, match=f"{target}, without https"):
        download._check_answer(answer)


def test_a_file_that_is_not_the_first_one_seen_is_refused(web, folder):
    first = fetch(web)
    first.file.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"it was {first.sha256} when first seen: it is damaged"):
        fetch(web)
    first.file.unlink()
    web.content += b"more"
    with pytest.raises(UserError, match="has changed"):
        fetch(web)
    (folder / "data.gz.sha256").unlink()
    assert fetch(web).file.read_bytes() == web.content
    assert len(web.requests) == 2


def test_a_cache_that_cannot_be_written_is_one_line(web, folder):
    folder.parent.mkdir(parents=True)
    folder.write_bytes(b"")
    with pytest.raises(UserError, match=f"{folder} cannot be written: File exists"):
        fetch(web)


def test_two_downloads_of_one_file_wait_for_each_other(web, folder):
    folder.mkdir(parents=True)
    fetched = []
    waiting = threading.Thread(target=lambda: fetched.append(fetch(web)))
    with locked(folder, str(folder)):
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert web.requests == []
    waiting.join()
    assert fetched[0].file.read_bytes() == web.content

"""Downloads from a server that stalls, cuts, lies and changes its mind."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPMessage as Message
from pathlib import Path
from urllib.request import Request

import pytest
from support import web as webs
from support.web import Web, cut, page, rude, stall, status, web_server, whole

from dien_jax.errors import UserError
from dien_jax.preparation.reading import download
from dien_jax.preparation.reading.download import Patience, Remote, fetch

QUICK = Patience(stall_seconds=0.3, attempts=3, pause_seconds=0.01)


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dien_jax" / "downloads" / "set"


def remote(web: Web) -> Remote:
    return Remote(f"{web.url}/data.gz", "set", "for research: TERMS", "PAGE", "--from")


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_fetched_once_recorded_and_found_again(web, folder, capsys):
    found = fetch(remote(web), QUICK)
    assert found.file == folder / "data.gz"
    assert found.file.read_bytes() == web.content
    assert found.sha256 == hashlib.sha256(web.content).hexdigest()
    assert names(folder) == ["data.gz", "data.gz.sha256.json"]
    record = json.loads((folder / "data.gz.sha256.json").read_text())
    assert record["sha256"] == found.sha256
    assert (record["url"], record["bytes"]) == (f"{web.url}/data.gz", len(web.content))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.index("data.gz: for research: TERMS") < err.index("downloading")
    assert "102.4 kB of 102.4 kB" in err
    assert fetch(remote(web), QUICK) == found
    assert len(web.requests) == 1
    assert "Range" not in web.requests[0]
    assert web.requests[0]["Accept-Encoding"] == "identity"
    assert "was downloaded before" in capsys.readouterr().err


def test_the_cache_lies_under_the_home_folder_unless_told(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert download.downloads() == tmp_path / "home" / ".cache" / "dien_jax" / "downloads"


@pytest.mark.parametrize("trouble", [stall, cut])
def test_what_came_before_a_stall_or_a_cut_is_kept_and_the_rest_fetched(web, trouble):
    web.plan = [trouble(50_000), trouble(20_000)]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert [request["Range"] for request in web.requests] == [None, "bytes=50000-", "bytes=70000-"]
    assert [request["If-Range"] for request in web.requests[1:]] == ['"one"', '"one"']


def test_progress_starts_the_count_of_attempts_anew(web):
    web.plan = [status(500), status(500), cut(100), status(500), status(500), cut(100)]
    with pytest.raises(UserError, match="no progress in 3 consecutive attempts"):
        fetch(remote(web), QUICK)
    web.plan, web.requests[:] = [status(500), cut(100), status(500), cut(100)], []
    fetch(remote(web), QUICK)
    assert len(web.requests) == 5


def test_without_a_strong_etag_the_last_change_tells_the_version(web):
    web.headers["ETag"] = 'W/"one"'
    web.plan = [cut(10)]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert web.requests[1]["If-Range"] == web.headers["Last-Modified"]


def test_without_any_version_nothing_is_glued(web):
    web.headers.clear()
    web.plan = [cut(10)]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert [request["Range"] for request in web.requests] == [None, None]


def test_a_server_without_ranges_is_asked_for_all_again(web):
    web.plan = [cut(60_000), whole]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert web.requests[1]["Range"] == "bytes=60000-"


def change(web: Web, answer):
    """Another content with other validators from this request on."""

    def changed(server: Web, handler) -> None:
        web.content = b"new" * 40_000
        web.headers = {"ETag": '"two"', "Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}
        answer(server, handler)

    return changed


@pytest.mark.parametrize("answer", [webs.well, rude(60_000)])
def test_a_file_that_changes_between_attempts_is_never_glued(web, answer):
    web.plan = [cut(60_000), change(web, answer)]
    assert fetch(remote(web), QUICK).file.read_bytes() == b"new" * 40_000


def test_a_change_of_length_alone_is_seen(web):
    def longer(server: Web, handler) -> None:
        web.content += b"more"
        rude(60_000)(server, handler)

    web.plan = [cut(60_000), longer]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert web.requests[2]["Range"] is None


@pytest.mark.parametrize("start", [0, 59_999])
def test_a_part_from_elsewhere_is_not_glued(web, start):
    web.plan = [cut(60_000), rude(start)]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content


def test_a_file_that_became_shorter_starts_anew(web):
    def shorter(server: Web, handler) -> None:
        web.content = web.content[:5_000]
        webs.rest(server, handler, 60_000)

    web.plan = [cut(60_000), shorter]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert len(web.content) == 5_000


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_is_told_at_once_with_what_else_to_do(web, folder, code):
    web.plan = [status(code)]
    with pytest.raises(UserError) as caught:
        fetch(remote(web), QUICK)
    assert f"{web.url}/data.gz: the server answered {code} " in str(caught.value)
    assert "get data.gz from PAGE and name it with --from" in str(caught.value)
    assert len(web.requests) == 1
    assert names(folder) == []


@pytest.mark.parametrize("codes", [(500,), (503, 429)])
def test_a_passing_error_is_tried_again(web, codes):
    web.plan = [status(code) for code in codes]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content


def test_an_error_that_does_not_pass_ends_the_download(web, folder):
    web.plan = [status(500)] * 9
    with pytest.raises(UserError, match=r"answered 500 .*; no progress in 3 consecutive attempts"):
        fetch(remote(web), QUICK)
    assert len(web.requests) == QUICK.attempts
    assert names(folder) == []


def test_a_server_that_says_nothing_at_all_is_given_up(web):
    web.plan = [lambda server, handler: server.over.wait()] * 2
    with pytest.raises(UserError, match="too long; no progress in 2 consecutive"):
        fetch(remote(web), QUICK._replace(attempts=2))


def test_no_server_is_one_message(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/data.gz"
    with pytest.raises(UserError, match=f"{url}: the connection failed .*refused"):
        fetch(Remote(url, "set", "", "PAGE", "--from"), QUICK)


def test_a_web_page_is_not_the_file(web, folder):
    web.plan = [page]
    with pytest.raises(UserError, match="answered with a web page, not the file"):
        fetch(remote(web), QUICK)
    assert names(folder) == []


def test_a_redirect_on_the_same_host_is_followed(web):
    web.plan = [webs.redirect("/elsewhere/data.gz"), webs.redirect(f"{web.url}/other")]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert web.paths == ["/data.gz", "/elsewhere/data.gz", "/other"]


@pytest.mark.parametrize(
    "target",
    ["http://elsewhere.test/data.gz", "//elsewhere.test/", "http://127.0.0.1:1/", "http://:80/",
     "https://elsewhere.test/", "https://127.0.0.1:1/x", "http://127.0.0.1@elsewhere.test/"],
)  # fmt: skip
def test_a_redirect_to_another_host_or_port_is_refused(web, folder, target):
    web.plan = [webs.redirect(target)]
    with pytest.raises(UserError) as caught:
        fetch(remote(web), QUICK)
    assert f"{web.url}/data.gz: the server redirects to " in str(caught.value)
    assert "get data.gz from PAGE and name it with --from" in str(caught.value)
    assert names(folder) == []


@pytest.mark.parametrize(
    ("old", "new", "is_followed"),
    [
        ("https://a.test/x", "https://a.test/y", True),
        ("http://a.test/x", "https://A.test/x", True),
        ("https://a.test/x", "http://a.test/x", False),
        ("https://a.test/x", "http://a.test:443/x", False),
        ("https://a.test/x", "https://a.test:8443/x", False),
        ("https://a.test/x", "https://a.test.b.test/x", False),
        ("https://a.test/x", "ftp://a.test/x", False),
    ],
)
def test_redirects_keep_to_https(old, new, is_followed):
    handler = download._SameHost(Remote(old, "set", "", "PAGE", "--from"))
    arguments = Request(old), io.BytesIO(), 302, "Found", Message(), new
    if is_followed:
        assert handler.redirect_request(*arguments).full_url == new
    else:
        with pytest.raises(UserError, match="not from https to http"):
            handler.redirect_request(*arguments)


def test_a_circle_of_redirects_is_one_line(web):
    web.plan = [webs.redirect("/data.gz")] * 20
    with pytest.raises(UserError, match="the server answered 302 ") as caught:
        fetch(remote(web), QUICK)
    assert "\n" not in str(caught.value)


def test_no_more_is_received_than_a_limit(web, folder, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 70_000)
    for plan in ([], [webs.unmeasured(70_001)]):
        web.plan = plan
        with pytest.raises(UserError, match=r"expected at most 70\.0 kB\. Or get data\.gz"):
            fetch(remote(web), QUICK)
        assert not list(folder.glob("*.part"))
    web.plan = [webs.unmeasured(70_000)]
    assert fetch(remote(web), QUICK).file.read_bytes() == bytes(70_000)


@pytest.mark.parametrize("length", ["x", "-1", "9" * 5000, "1_0"])
def test_a_length_that_is_no_number_is_unknown(web, length):
    def answer(server: Web, handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(b"content")

    web.plan = [answer]
    assert fetch(remote(web), QUICK).file.read_bytes() in (b"content", b"")


def test_no_more_is_received_than_was_announced(web, folder):
    def more(server: Web, handler) -> None:
        server.content += bytes(10)
        handler.send_response(206)
        for name, value in server.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Range", "bytes 60000-102399/102400")
        handler.send_header("Content-Length", str(len(server.content) - 60_000))
        handler.end_headers()
        handler.wfile.write(server.content[60_000:])

    web.plan = [cut(60_000), more]
    with pytest.raises(UserError, match=r"the server sends more, expected at most 102\.4 kB"):
        fetch(remote(web), QUICK)
    assert not (folder / "data.gz.part").exists()


def test_a_killed_download_goes_on_where_it_was(web, folder):
    web.plan = [stall(70_000)]
    program = (
        "from dien_jax.preparation.reading.download import *;"
        f"fetch(Remote({web.url + '/data.gz'!r}, 'set', '', '', ''))"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    part = folder / "data.gz.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size == 70_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert names(folder) == ["data.gz.part", "data.gz.part.json"]
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert web.requests[1]["Range"] == "bytes=70000-"
    assert names(folder) == ["data.gz", "data.gz.sha256.json"]


def test_ctrl_c_says_what_is_kept(web, folder, monkeypatch, capsys):
    web.plan = [cut(70_000)]

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(remote(web), QUICK)
    assert f"kept {folder / 'data.gz.part'}" in capsys.readouterr().err
    assert (folder / "data.gz.part").stat().st_size == 70_000


def test_a_file_that_is_not_what_was_first_seen_is_refused(web, folder):
    first = fetch(remote(web), QUICK)
    first.file.write_bytes(b"damaged")
    with pytest.raises(UserError) as caught:
        fetch(remote(web), QUICK)
    message = str(caught.value)
    assert f"it was {first.sha256} when first seen" in message
    assert f"Delete {first.file} to fetch it again" in message
    assert str(folder / "data.gz.sha256.json") in message
    first.file.unlink()
    assert fetch(remote(web), QUICK) == first


def test_a_published_file_that_changed_is_refused_until_it_is_accepted(web, folder):
    fetch(remote(web), QUICK).file.unlink()
    change(web, lambda server, handler: None)(web, None)
    with pytest.raises(UserError, match="has changed"):
        fetch(remote(web), QUICK)
    assert not (folder / "data.gz").exists()
    (folder / "data.gz.sha256.json").unlink()
    assert fetch(remote(web), QUICK).file.read_bytes() == web.content
    assert len(web.requests) == 2, "what had come is whole and was not fetched again"


def test_a_damaged_record_is_told(web, folder):
    fetch(remote(web), QUICK)
    (folder / "data.gz.sha256.json").write_text("{")
    with pytest.raises(UserError, match=r"data.gz.sha256.json: expected JSON: .*; delete it"):
        fetch(remote(web), QUICK)


def test_a_file_without_a_record_is_seen_for_the_first_time(web, folder):
    folder.mkdir(parents=True)
    (folder / "data.gz").write_bytes(b"put here by hand")
    fetch(remote(web), QUICK)
    record = json.loads((folder / "data.gz.sha256.json").read_text())
    assert record["sha256"] == hashlib.sha256(b"put here by hand").hexdigest()
    assert web.requests == []


def test_a_full_disk_is_told_before_anything_comes(web, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(UserError, match=r"1.0 kB free, but data.gz needs 102.4 kB more"):
        fetch(remote(web), QUICK)


def test_a_cache_that_cannot_be_written_is_one_message(web, folder):
    folder.parent.mkdir(parents=True)
    folder.write_bytes(b"")
    with pytest.raises(UserError, match=f"{folder} cannot be written: File exists"):
        fetch(remote(web), QUICK)


def test_two_downloads_of_one_file_wait_for_each_other(web, folder):
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    found = []
    waiting = threading.Thread(target=lambda: found.append(fetch(remote(web), QUICK)))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    assert web.requests == []
    os.close(handle)
    waiting.join()
    assert found[0].file.read_bytes() == web.content

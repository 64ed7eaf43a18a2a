"""A local web server whose answers a test prescribes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Web", BaseHTTPRequestHandler], None]


class Web:
    """Serve the same content at every path.

    Attributes:
      url: of the server, without a trailing slash.
      content: body of complete answers.
      headers: headers of every complete or partial answer.
      plan: answers to the next requests, in order; later ones get :func:`well`.
      requests: headers of all requests so far.
      paths: paths of all requests so far.
      over: set when the test is over.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.content = bytes(range(256)) * 400
        self.headers = {"ETag": '"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        self.plan: list[Answer] = []
        self.requests: list[Message] = []
        self.paths: list[str] = []
        self.over = threading.Event()


@contextmanager
def web_server() -> Iterator[Web]:
    """Run the server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.requests.append(self.headers)
            web.paths.append(self.path)
            answer = web.plan.pop(0) if web.plan else well
            self.close_connection = True
            answer(web, self)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    web = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def well(web: Web, handler: BaseHTTPRequestHandler) -> None:
    """Answer as RFC 9110 says, with ranges and conditions."""
    span = handler.headers["Range"]
    validators = (web.headers.get("ETag"), web.headers.get("Last-Modified"))
    if span and handler.headers["If-Range"] in validators:
        rest(web, handler, int(span.removeprefix("bytes=").removesuffix("-")))
    else:
        whole(web, handler)


def rest(web: Web, handler: BaseHTTPRequestHandler, start: int) -> None:
    """Send the content from a byte on, whatever the conditions."""
    size = len(web.content)
    if start >= size:
        handler.send_response(416)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    _send(web, handler, web.content[start:])


def whole(web: Web, handler: BaseHTTPRequestHandler) -> None:
    """Send the complete content, whatever the request."""
    handler.send_response(200)
    _send(web, handler, web.content)


def cut(count: int) -> Answer:
    """Close the connection after some bytes of a good answer."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        _cut(web, handler, count)

    return answer


def stall(count: int) -> Answer:
    """Send nothing more after some bytes of a good answer."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        _cut(web, handler, count)
        web.over.wait()

    return answer


def status(code: int) -> Answer:
    """Answer with an error status."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        handler.send_error(code)

    return answer


def redirect(target: str) -> Answer:
    """Send the client to another address."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def unmeasured(count: int) -> Answer:
    """Send some bytes without announcing their number."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(bytes(count))

    return answer


def rude(start: int) -> Answer:
    """Send the content from a byte on, ignoring conditions."""
    return lambda web, handler: rest(web, handler, start)


def page(web: Web, handler: BaseHTTPRequestHandler) -> None:
    """Send a web page instead of the file."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.send_header("Content-Length", "6")
    handler.end_headers()
    handler.wfile.write(b"log in")


def _cut(web: Web, handler: BaseHTTPRequestHandler, count: int) -> None:
    write, left = handler.wfile.write, count

    def limited(data: bytes) -> int:
        nonlocal left
        if not data.startswith(b"HTTP/"):
            data, left = data[:left], max(left - len(data), 0)
        return write(data)

    handler.wfile.write = limited  # type: ignore[method-assign]
    well(web, handler)
    handler.wfile.flush()


def _send(web: Web, handler: BaseHTTPRequestHandler, body: bytes) -> None:
    for name, value in web.headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)

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
      plan: answers to the next requests, in order; later ones get :func:`whole`.
      requests: headers of all requests so far.
      paths: paths of all requests so far.
      over: set when the test is over.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.content = bytes(range(256)) * 400
        self.plan: list[Answer] = []
        self.requests: list[Message] = []
        self.paths: list[str] = []
        self.over = threading.Event()


@contextmanager
def web_server() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.requests.append(self.headers)
            web.paths.append(self.path)
            answer = web.plan.pop(0) if web.plan else whole
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


def _send(handler: BaseHTTPRequestHandler, code: int, body: bytes = b"", **headers: str) -> None:
    """Send a status, headers, whose names have _ for -, and a body."""
    handler.send_response(code)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def whole(web: Web, handler: BaseHTTPRequestHandler) -> None:
    """Send the complete content, whatever the request."""
    _send(handler, 200, web.content)


def unmeasured(web: Web, handler: BaseHTTPRequestHandler) -> None:
    """Send the complete content with a length that is no number."""
    _send(handler, 200, web.content, Content_Length="long", Connection="close")


def cut(count: int) -> Answer:
    """Close the connection after some bytes of a good answer."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        _send(handler, 200, web.content[:count], Content_Length=str(len(web.content)))

    return answer


def stall(count: int) -> Answer:
    """Send nothing more after some bytes of a good answer."""

    def answer(web: Web, handler: BaseHTTPRequestHandler) -> None:
        cut(count)(web, handler)
        web.over.wait()

    return answer


def status(code: int) -> Answer:
    return lambda web, handler: handler.send_error(code)


def redirect(target: str) -> Answer:
    return lambda web, handler: _send(handler, 302, Location=target, Connection="close")


def page(web: Web, handler: BaseHTTPRequestHandler) -> None:
    _send(handler, 200, b"log in", Content_Type="text/html; charset=utf-8")

"""The server's process: sockets, signals, shutdown"""

import socket

from dien_jax.errors import UserError


def bound(host: str, port: int) -> socket.socket:
    """A socket with the address, on which nothing is accepted yet.

    Raises:
      UserError: when the address is taken or is none of this machine's.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # Its protocol is named, or asyncio would leave Nagle's algorithm on: 40 ms an answer.
        taken = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
        except OSError:
            taken.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen at --host {host} --port {port}: {reason}") from error
    return taken

"""HTTP to the daemon for blocking.py: the connection, the answer, and what a socket says put into words.

The only place of the blocking client that touches a socket. Nothing here knows a route.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator

from comfytunnel import paths
from comfytunnel.client.address import Address
from comfytunnel.client.following import NO_ANSWER
from comfytunnel.errors import Error, NotRunningError, RefusedError

CHUNK = 1 << 20  # bytes; the largest single read
GONE = "The daemon went away before it had answered."
STOPPED = "The daemon has stopped."


def how_to_start(address: Address | None = None) -> str:
    """Return the next step where no daemon runs: what is there already decides it."""
    if address is not None and address.socket is None:
        return "Does it run (`comfytunnel status`), and is this port the one of `[web] listen` in its config?"
    if not os.access(paths.config_path(), os.F_OK):
        return "First say where to: `comfytunnel setup 'ssh -p ...'`; then start it: `comfytunnel daemon`, or as a service: `comfytunnel install`."
    service = (
        f"`systemctl --user start {paths.unit_name()}`" if paths.has_service() else "`comfytunnel install`"
    )
    return f"Start it: `comfytunnel daemon` in a terminal of its own, or as a service: {service}."


def nobody_listens(address: Address) -> Error:
    return NotRunningError(f"No daemon listens on {address}.", hint=how_to_start(address))


def not_ours(address: Address) -> Error:
    return RefusedError(
        f"The socket {address} may not be opened: it belongs to another user.",
        hint="Each user runs a daemon of their own.",
    )


def does_not_answer(address: Address) -> Error:
    how = "`comfytunnel restart`" if paths.has_service() else "end it, then `comfytunnel daemon`"
    return NotRunningError(
        f"The daemon on {address} does not answer.",
        hint=f"It may be stopped or stuck: restart it ({how}).",
        code=NO_ANSWER,
    )


def has_gone(address: Address, sentence: str = GONE) -> Error:
    return NotRunningError(sentence, hint=how_to_start(address), code=NO_ANSWER)


class Connection(http.client.HTTPConnection):
    """http.client to an Address, also over AF_UNIX. There it calls itself localhost: the daemon builds URLs from that."""

    def __init__(self, address: Address, timeout: float) -> None:
        super().__init__(address.host, address.port, timeout=timeout)
        self.address = address
        self.raw: socket.socket | None = None

    def connect(self) -> None:
        if self.address.socket is None:
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(os.fspath(self.address.socket))
        self.raw = self.sock  # http.client lets go of it when the answer has an end of its own

    def close(self) -> None:
        super().close()
        if self.raw is not None:
            self.raw.close()


class Answer:
    """An answer whose body has yet to be read. Both reads raise NotRunningError when the daemon falls silent or away."""

    def __init__(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.server = response.headers.get("Server", "")

    def read(self) -> bytes:
        with blame(self._connection.address):
            return self._response.read()

    def read_some(self, timeout: float | None = None) -> bytes:
        """Return the bytes that are there, waiting up to `timeout` seconds for the first; b"" at the end."""
        with blame(self._connection.address, STOPPED):
            if timeout is not None and self._connection.raw is not None:
                self._connection.raw.settimeout(max(timeout, 0.001))  # zero would mean: do not block
            return self._response.read1(CHUNK)


@contextlib.contextmanager
def blame(address: Address, gone: str = GONE) -> Iterator[None]:
    """Turn what a socket says about the daemon into our own errors; `gone` is the sentence for one that broke off."""
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise nobody_listens(address) from error
    except PermissionError as error:
        raise not_ours(address) from error
    except TimeoutError as error:
        raise does_not_answer(address) from error
    except (OSError, http.client.HTTPException) as error:
        raise has_gone(address, gone) from error

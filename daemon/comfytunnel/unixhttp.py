"""HTTP over the daemon's Unix socket for client.py: the connection, the answer, and what a socket says put into words.

The only place of the client that touches a socket. Nothing here knows a route.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from comfytunnel import paths
from comfytunnel.errors import NotRunningError, RefusedError

CHUNK = 1 << 20  # bytes; the largest single read


def how_to_start() -> str:
    """Return the next step where no daemon runs: what is there already decides it."""
    if not os.access(paths.config_path(), os.F_OK):
        return "First say where to: `comfytunnel setup 'ssh -p ...'`; then start it: `comfytunnel daemon`, or as a service: `comfytunnel install`."
    service = (
        f"`systemctl --user start {paths.unit_name()}`" if paths.has_service() else "`comfytunnel install`"
    )
    return f"Start it: `comfytunnel daemon` in a terminal of its own, or as a service: {service}."


class UnixConnection(http.client.HTTPConnection):
    """http.client over AF_UNIX. It calls itself localhost: the daemon builds URLs from that."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.socket_path = path
        self.raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def connect(self) -> None:
        self.raw.settimeout(self.timeout)
        self.raw.connect(os.fspath(self.socket_path))
        self.sock = self.raw

    def close(self) -> None:
        super().close()
        self.raw.close()


class Answer:
    """An answer whose body has yet to be read. Both reads raise NotRunningError when the daemon falls silent or away."""

    def __init__(self, connection: UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status
        self.server = response.headers.get("Server", "")

    def read(self) -> bytes:
        with blame(self._connection.socket_path):
            return self._response.read()

    def read_some(self, timeout: float | None = None) -> bytes:
        """Return the bytes that are there, waiting up to `timeout` seconds for the first; b"" at the end."""
        with blame(self._connection.socket_path, "The daemon has stopped."):
            if timeout is not None:
                self._connection.raw.settimeout(max(timeout, 0.001))  # zero would mean: do not block
            return self._response.read1(CHUNK)


@contextlib.contextmanager
def blame(path: Path, gone: str = "The daemon went away before it had answered.") -> Iterator[None]:
    """Turn what a socket says about the daemon into our own errors; `gone` is the sentence for one that broke off."""
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunningError(f"No daemon listens on {path}.", hint=how_to_start()) from error
    except PermissionError as error:
        raise RefusedError(
            f"The socket {path} may not be opened: it belongs to another user.",
            hint="Each user runs a daemon of their own.",
        ) from error
    except TimeoutError as error:
        how = "`comfytunnel restart`" if paths.has_service() else "end it, then `comfytunnel daemon`"
        raise NotRunningError(
            f"The daemon on {path} does not answer.", hint=f"It may be stopped or stuck: restart it ({how})."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise NotRunningError(gone, hint=how_to_start()) from error

"""A loopback HTTP server that is never the bottleneck: one thread per caller, sendfile from the page cache.

It runs as a process of its own, prints its port as a JSON line and ends with its stdin. `/big` is the file that
it was given, `/small` a few bytes, everything else 404; connections are kept alive unless the caller objects. It
answers what comfytunnel asks a ComfyUI, so that it is looked at as seldom as one that serves.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

SMALL = {
    b"/small": b'{"ok": true}\n',
    b"/system_stats": b'{"system": {"comfyui_version": "0.33.0"}, "devices": []}\n',
    b"/prompt": b'{"exec_info": {"queue_remaining": 0}}\n',
}
HEAD_LIMIT = 65536  # bytes


def head(status: str, length: int, kind: str = "application/octet-stream") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n".encode()


def answer(caller: socket.socket, file: int, size: int) -> None:
    """Serves one connection until either side has had enough."""
    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = b""
    with caller:
        while True:
            while b"\r\n\r\n" not in request:
                data = caller.recv(HEAD_LIMIT)
                if not data or len(request) > HEAD_LIMIT:
                    return
                request += data
            one, _, request = request.partition(b"\r\n\r\n")
            path = one.split(b" ")[1] if one.startswith(b"GET ") else b""
            if path == b"/big":
                caller.sendall(head("200 OK", size))
                sent = 0
                while sent < size:
                    sent += os.sendfile(caller.fileno(), file, sent, size - sent)
            elif path in SMALL:
                caller.sendall(head("200 OK", len(SMALL[path]), "application/json") + SMALL[path])
            else:
                caller.sendall(head("404 Not Found", 0))
            if b"\r\nconnection: close" in one.lower():
                return


def serve(caller: socket.socket, file: int, size: int) -> None:
    with contextlib.suppress(ConnectionError):  # the caller left, which is its right
        answer(caller, file, size)


def accept(listener: socket.socket, file: int, size: int) -> None:
    while True:
        caller, _ = listener.accept()
        threading.Thread(target=serve, args=(caller, file, size), daemon=True).start()


def main(path: Path) -> None:
    with path.open("rb") as file, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        size = path.stat().st_size
        arguments = (listener, file.fileno(), size)
        threading.Thread(target=accept, args=arguments, daemon=True).start()
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        sys.stdin.read()
        os._exit(0)  # the threads hold open sockets that nobody waits for


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The daemon of the demo: `comfytunnel daemon`, which also ends when standard input does.

The demo holds the other end of that pipe, so a demo that was killed leaves no daemon behind, on any system. Nothing else differs.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.argv = ["comfytunnel", "daemon"]
    runpy.run_module("comfytunnel", run_name="__main__", alter_sys=True)

"""Files up: before a job is submitted, each file that its graph means lies in ComfyUI's input folder, under its hash.

Asked before each job (HEAD /view): the name says which bytes, so there and of the right size means nothing is sent. A ComfyUI that is new has
none of them and gets them. A cut upload leaves nothing over there (measured), so it is resumed by sending again; what a dying server left half
written has another size, and is overwritten: nobody can be using it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous, Refused
from comfytunnel.errors import StateError
from comfytunnel.jobs.disk import on_thread
from comfytunnel.jobs.model import Failure, Input
from comfytunnel.jobs.references import replaced

T = TypeVar("T")

SUBFOLDER = "comfytunnel"
"""Of ComfyUI's input folder: ours lie apart from the user's own."""
CHUNK = 256 * 1024
"""Bytes that are read at a time."""
MAX_ERRORS = 3
"""Answers 500 to one upload: a full disk over there, or a bug; not the road."""
PAUSE = 0.5
"""Seconds after such an answer."""


class Unsendable(Exception):  # noqa: N818 (an observation)
    """No later try would end otherwise. `failure` is the job's."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


async def unless(stop: Coroutine[Any, Any, None], work: Coroutine[Any, Any, T]) -> T | None:
    """What `work` returns or raises, or None once `stop` has returned; neither goes on afterwards."""
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(stop)
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        if stopping.done() and not working.done():
            stopping.result()
            return None
        return await working
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.wait([working, stopping])
        for task in (working, stopping):
            if not task.cancelled():
                task.exception()  # seen: what became of the other one matters no more


async def staged(
    workflow: Mapping[str, Any],
    inputs: Sequence[Input],
    folder: Path,
    client: Client,
    sending: Callable[[Input], None],
) -> Mapping[str, Any]:
    """The graph with ComfyUI's names for the files in `folder` that it means, all of which lie there now.

    `sending` is told before a file is sent. Raises Unsendable, ComfyError (the road or the server: try again) and StateError.
    """
    given: dict[str, str] = {}
    for item in inputs:
        name = f"{item.blake3}{item.suffix}"
        if name not in given:
            given[name] = await _there(item, name, folder, client, sending)
    names = {item.at: given[f"{item.blake3}{item.suffix}"] for item in inputs}
    return replaced(workflow, names) if names else workflow


async def _there(
    item: Input, name: str, folder: Path, client: Client, sending: Callable[[Input], None]
) -> str:
    size = await client.size_of_input(name, SUBFOLDER)
    if size == item.size:
        return f"{SUBFOLDER}/{name}"
    sending(item)
    errors = 0
    while True:
        try:
            return await _send(item, name, folder, client, overwrite=size is not None)
        except Refused as error:
            raise Unsendable(_refused(item, error.status)) from error
        except Ambiguous as error:
            if error.status != 500:
                raise
            errors += 1
            if errors >= MAX_ERRORS:
                raise Unsendable(_refused(item, 500)) from error
        await asyncio.sleep(PAUSE)


async def _send(item: Input, name: str, folder: Path, client: Client, *, overwrite: bool) -> str:
    """Send one file. A damaged one is not sent: its name would make other bytes of it, for good."""
    try:
        file = await on_thread(lambda: (folder / item.blake3).open("rb", buffering=0))
        with file:
            if await on_thread(lambda: _digest(file.fileno())) != item.blake3:
                raise Unsendable(_lost(item))

            async def read() -> bytes:
                return await on_thread(lambda: file.read(CHUNK))

            return await client.upload_input(read, item.size, name, SUBFOLDER, overwrite=overwrite)
    except FileNotFoundError as error:
        raise Unsendable(_lost(item)) from error
    except OSError as error:
        raise StateError(f"The input {item.name} cannot be read ({error.strerror or error}).") from error


def _digest(file: int) -> str:
    from blake3 import blake3  # here, so that a daemon without files never pays for the import

    found = blake3()
    at = 0
    while batch := os.pread(file, 1024**2, at):
        found.update(batch)
        at += len(batch)
    return found.hexdigest()


def _lost(item: Input) -> Failure:
    text = f"The bytes of the input {item.name} are no longer in comfytunnel's folder, or are damaged. Upload it again, and retry."
    return Failure("input_missing", text, str(item.at[0]))


def _refused(item: Input, status: int) -> Failure:
    why = {
        413: "it is larger than that server takes (100 MB, unless ComfyUI is started with a larger --max-upload-size)",
        500: f"it answered {MAX_ERRORS} times with an internal error; its disk may be full",
    }
    text = f"ComfyUI did not take the input {item.name} ({item.size} bytes): {why.get(status, f'HTTP status {status}')}."
    return Failure("upload_refused", text, str(item.at[0]))

"""The far end of the road: whether ComfyUI serves, and whether its websocket speaks; asked through the door, as a job asks.

Whether there is a link that leads there is road.py's to know.
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

from comfytunnel.comfy.client import Client
from comfytunnel.comfy.errors import Ambiguous, ComfyError, NotComfyUI
from comfytunnel.comfy.progress import listen
from comfytunnel.doctor.chain import Broken

WORD_DEADLINE = 5.0  # seconds for a websocket's first word, which takes a round trip or two

_WEBSOCKET_HINT = (
    "Jobs go on without it, their progress is seen late. A proxy before ComfyUI may not pass websockets."
)


async def ask_comfyui(client: Client, remote: str) -> str:
    """Raises Broken for what answers on `remote` and is not a ComfyUI that serves."""
    try:
        version = await client.version()
    except ComfyError as error:
        raise Broken(*_blame(error, remote)) from error
    return f"ComfyUI {version or 'of a version that it does not tell'} serves on {remote}"


async def hear_websocket(client: Client) -> str:
    """Raises Broken for a websocket that does not open or says nothing."""
    try:
        async with (
            asyncio.timeout(WORD_DEADLINE),
            listen(client, f"doctor-{uuid4()}") as events,
        ):
            await anext(aiter(events))
    except TimeoutError:
        raise Broken(f"The websocket says nothing for {WORD_DEADLINE:.0f} s.", _WEBSOCKET_HINT) from None
    except ComfyError as error:
        raise Broken(f"The websocket does not work: {error.message}.", _WEBSOCKET_HINT) from error
    return "it opens and speaks"


def _blame(error: ComfyError, remote: str) -> tuple[str, str]:
    """What was seen and the next step."""
    if isinstance(error, NotComfyUI):
        hint = f"Check `remote` ({remote}): on Vast.ai 18188 is ComfyUI itself, 8188 a login page before it."
        return f"What answers on {remote} is not ComfyUI: {error.message}.", hint
    if isinstance(error, Ambiguous) and error.status is not None:
        return f"ComfyUI answers with errors: {error.message}.", "Look into its log on the instance."
    if isinstance(error, Ambiguous) and error.silent:
        return (
            f"ComfyUI takes connections on {remote} and does not answer.",
            "It may be stuck: restart it there.",
        )
    hint = "Normal for many minutes while an instance is being set up. If it stays: does ComfyUI run there, and on this port?"
    return f"Nothing serves on {remote} over there: {error.message}.", error.hint or hint

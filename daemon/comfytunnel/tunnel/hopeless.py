"""What a caller hears for whom there will be no channel: why, in which words, and whether it would understand them. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from comfytunnel.tunnel.framing import Refusal
from comfytunnel.tunnel.guard import response
from comfytunnel.tunnel.state import Cause, Code, Phase

if TYPE_CHECKING:
    from comfytunnel.tunnel.driver import View

_HTTP = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT) \S")


def why(view: View) -> Cause:
    """Why there is no channel now."""
    if view.tunnel.phase is Phase.DOWN:
        return Cause(Code.DOWN_ON_PURPOSE)
    if view.tunnel.phase is Phase.UP:
        return Cause(
            Code.CONNECT_TIMEOUT,
            "the tunnel is up, but no channel came free for this call.",
            "The far side confirms no channels, or too many calls are open at once; `comfytunnel reconnect` ends them all.",
        )
    return view.tunnel.cause or Cause(Code.CONNECT_TIMEOUT, "the tunnel is still connecting.")


def unavailable(cause: Cause) -> bytes:
    """The 503 that tells it."""
    return response(Refusal(503, cause.code.value, cause.message, cause.hint))


def speaks_http(begun: bytes | bytearray) -> bool:
    """Whether who began like that waits for an answer in HTTP."""
    return _HTTP.match(begun) is not None

"""The row of steps: each is tried within a deadline, what it raises becomes a finding, what needs a broken one is skipped.

Nothing here knows what the steps do; whoever has the road (road.py) or the house (house.py) says that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from comfytunnel import wire
from comfytunnel.errors import Error
from comfytunnel.tunnel.link import TEXT_LIMIT, LinkError
from comfytunnel.tunnel.state import MEANINGS, Code
from comfytunnel.tunnel.witness import Witness, cause_of
from comfytunnel.words import Result

log = structlog.get_logger(__name__)

WHOLE_DEADLINE = 45.0  # seconds for all of it; a client waits for 60
STEP_DEADLINE = 12.0  # seconds for one step; those of 10 s inside it say more, and come first

Words = str | tuple[str, str]
"""What a step that passes says; a second text is its hint, where not all is well."""


class Broken(Exception):  # noqa: N818 - a finding, not a mistake
    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail, self.hint = detail, hint


class Skipped(Broken):
    """This step was not tried."""


class Chain:
    """The findings so far. A step that needs one that failed is skipped."""

    def __init__(self) -> None:
        self._end = asyncio.get_running_loop().time() + WHOLE_DEADLINE
        self.checks: list[wire.Check] = []
        self.blocked: set[str] = set()  # failed, or skipped because of one that failed

    async def step(self, name: str, check: Callable[[], Awaitable[Words]], *needs: str) -> None:
        """`check` returns its words, with a hint if not all is well; what it raises becomes a finding."""
        loop = asyncio.get_running_loop()
        began, detail, hint = loop.time(), "", ""
        result: Result = "fail"
        deadline = min(STEP_DEADLINE, self._end - began)
        missing = next((need for need in needs if need in self.blocked), None)
        try:
            if missing:
                self.blocked.add(name)
                raise Skipped(f"needs {missing}")
            if deadline <= 0:
                raise Skipped(f"no time was left: {WHOLE_DEADLINE:.0f} s have passed")
            async with asyncio.timeout(deadline):
                said = await check()
            result, (detail, hint) = "pass", (said, "") if isinstance(said, str) else said
        except Skipped as skipped:
            result, detail, hint = "skip", skipped.detail, skipped.hint
        except Broken as broken:
            detail, hint = broken.detail, broken.hint
        except TimeoutError:
            detail = f"No answer within {deadline:.0f} s."
        except LinkError as error:
            detail, hint = error.cause.message, error.cause.hint
        except Error as error:
            detail, hint = error.message, error.hint
        except (OSError, ValueError) as error:
            cause = cause_of(error, Witness())
            detail, hint = cause.message, cause.hint
        except Exception as error:
            # asyncssh hands on whatever a hostile far side made it stumble over: that is a finding, and no end of the doctor.
            log.exception("doctor", step=name)
            detail, hint = (
                f"{type(error).__name__}: {str(error)[:TEXT_LIMIT]}",
                MEANINGS[Code.PROTOCOL_ERROR].hint,
            )
        if result == "fail":
            self.blocked.add(name)
        self.checks.append(wire.Check(name, result, round(loop.time() - began, 3), detail, hint))

    @property
    def broken(self) -> str | None:
        return next((check.step for check in self.checks if check.result == "fail"), None)

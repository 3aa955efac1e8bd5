"""Every error that one room raises for another, drawn once.

    Error                       message (what and why), hint (the next step), code (stable, on the wire)
    ├── ConfigError             the config cannot be used; carries every Problem that was found
    ├── UsageError              a request or command line that can never work as it stands
    │   └── WorkflowError       the workflow is not one that ComfyUI could run
    ├── NotFoundError           the thing that was named does not exist
    ├── RefusedError            we will not do this (a second daemon, a foreign peer, a wrong mode)
    ├── StateError              our own files cannot be read or written: full disk, broken database
    ├── NotRunningError         no daemon answers on the control socket
    ├── TimedOutError           the caller's own deadline has passed
    ├── JobEndedError           the Python client: a job that was waited for has ended, and not well; `job` is that job
    │   ├── JobFailedError
    │   ├── JobCanceledError
    │   └── JobExpiredError
    └── RemoteError             the daemon answered with an error that this side has no class for

No HTTP status and no exit code appears here: api/ and cli/ each hold one table for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from comfytunnel import wire


class Error(Exception):
    """What happened and why; `hint` is the next step, `details` what a program may want to read."""

    code: ClassVar[str] = "internal"

    def __init__(
        self, message: str, *, hint: str = "", code: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details or {}
        self.code_on_wire = code or self.code

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the config: `path` is dotted ("tunnels.default.port"), empty for the file as a whole."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{where}{self.message} {self.hint}".strip()


class ConfigError(Error):
    """The config cannot be used. `problems` holds every mistake that was found, in the order of the file."""

    code = "config_error"

    def __init__(self, problems: list[Problem], *, source: str = "") -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        where = f"{source}: " if source else ""
        path = f"{first.path}: " if first.path else ""
        super().__init__(f"{where}{path}{first.message}{more}", hint=first.hint)
        self.problems = problems
        self.source = source


class UsageError(Error):
    code = "invalid_request"


class WorkflowError(UsageError):
    code = "invalid_workflow"


class NotFoundError(Error):
    code = "not_found"


class RefusedError(Error):
    code = "forbidden"


class StateError(Error):
    code = "state_error"


class NotRunningError(Error):
    code = "not_running"


class TimedOutError(Error):
    code = "timed_out"


class RemoteError(Error):
    code = "remote_error"


class JobEndedError(Error):
    """`job`: the job as it ended, with `error` and the outputs that it has made; of the class that the client gives (Job, AsyncJob)."""

    code = "job_ended"

    def __init__(self, message: str, *, job: wire.Job, hint: str = "", code: str | None = None) -> None:
        super().__init__(message, hint=hint, code=code, details={"job_id": job.id})
        self.job = job


class JobFailedError(JobEndedError):
    code = "job_failed"


class JobCanceledError(JobEndedError):
    code = "job_canceled"


class JobExpiredError(JobEndedError):
    code = "job_expired"

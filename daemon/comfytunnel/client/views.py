"""What a Job and an Output are for either shell: the shapes of the wire, made live by the client that they came through.

They are what the daemon said when it was last asked; `refresh` and `wait` ask again and renew the job in place. Nothing here does I/O but what a notebook
shows, which no async function could give it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from comfytunnel import wire
from comfytunnel.client.address import Address
from comfytunnel.errors import (
    Error,
    JobCanceledError,
    JobEndedError,
    JobExpiredError,
    JobFailedError,
    UsageError,
)

ENDS: dict[str, type[JobEndedError]] = {
    "failed": JobFailedError,
    "canceled": JobCanceledError,
    "expired": JobExpiredError,
}
SHOWING_PATIENCE = 5.0  # seconds that a notebook's cell waits for a picture


class OutputView(wire.Output, frozen=True, kw_only=True, dict=True):
    """A file that a job has made. `path`: where it lies on this machine; it may have been moved or deleted since."""

    @property
    def path(self) -> Path | None:
        return Path(self.comfytunnel.path) if self.comfytunnel is not None else None

    def __repr__(self) -> str:
        from comfytunnel.client import shown

        return f"<Output {shown.line_of_output(self)}>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What Jupyter shows: the picture, if it is one."""
        from comfytunnel.client import shown

        return shown.bundle_of_output(self, self._fetch)

    def _fetch(self, output: wire.Output, most: int) -> bytes | None:
        return peek(owner_of(self).address, output, most)


class JobView(wire.Job, frozen=True, kw_only=True, dict=True):
    @property
    def done(self) -> bool:
        """Whether it has ended, however."""
        return self.status in wire.TERMINAL

    @property
    def label(self) -> str | None:
        return self.comfytunnel.label if self.comfytunnel is not None else None

    def check(self) -> None:
        """Return for a job that has succeeded or has not ended; raise JobFailedError, JobCanceledError or JobExpiredError for one that ended otherwise."""
        if self.done and self.status != "succeeded":
            raise ended(self)

    def __repr__(self) -> str:
        from comfytunnel.client import shown

        return shown.line_of_job(self)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """What Jupyter shows: the state, and the pictures up to 8 MiB in all."""
        from comfytunnel.client import shown

        address = owner_of(self).address

        def fetch(output: wire.Output, most: int) -> bytes | None:
            return peek(address, output, most)

        return {"text/plain": repr(self), "text/html": shown.html_of_job(self, fetch)}


def ended(job: wire.Job) -> JobEndedError:
    """Return the error for a job that has ended without success."""
    kind = ENDS.get(job.status, JobEndedError)
    if job.error is None:
        return kind(f"The job {job.id} was {job.status}.", job=job)
    where = f" (node {job.error.node_id}, {job.error.class_type})" if job.error.node_id is not None else ""
    return kind(
        f"The job {job.id} was {job.status}: {job.error.message}{where}", job=job, code=job.error.code
    )


def own(thing: msgspec.Struct, client: object) -> None:
    """Tell a job, or an output, through which client it came."""
    thing.__dict__["client"] = client
    if isinstance(thing, JobView):
        for output in thing.outputs:
            output.__dict__["client"] = client


def owner_of(thing: msgspec.Struct) -> Any:
    """Return the client. UsageError for a job that came through none: one that was unpickled or made by hand."""
    client = thing.__dict__.get("client")
    if client is None:
        raise UsageError("This job knows no client.", hint="Ask for it: client.job(ID).")
    return client


def renew(job: JobView, latest: JobView) -> None:
    """Let `job` say what `latest` says."""
    for name in job.__struct_fields__:
        msgspec.structs.force_setattr(job, name, getattr(latest, name))


def image_of(data: bytes) -> Any:
    """The bytes as a PIL.Image.Image; PIL is imported here and nowhere else."""
    import io

    from PIL import Image

    return Image.open(io.BytesIO(data))


def peek(address: Address, output: wire.Output, most: int) -> bytes | None:
    """Return the output's bytes for a notebook; None if they are more than `most`, or if the daemon is away: a cell is shown all the same."""
    from comfytunnel.client.calls import content
    from comfytunnel.client.carrier import Carrier

    found = b""
    try:
        for chunk in Carrier(address, SHOWING_PATIENCE).chunks(content(output.id)):
            found += chunk
            if len(found) > most:
                return None
    except Error:
        return None
    return found

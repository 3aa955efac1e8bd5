"""The job and the output that the blocking Client returns. Each method is one call of the client."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from comfytunnel import wire
from comfytunnel.client.saving import in_a_folder, writing
from comfytunnel.client.views import JobView, OutputView, image_of, owner_of, renew
from comfytunnel.protocol import JobEvent

if TYPE_CHECKING:
    from comfytunnel.client.blocking import Client


class Output(OutputView, frozen=True, kw_only=True, dict=True):
    def read(self) -> bytes:
        """All of its bytes, through the daemon."""
        to = io.BytesIO()
        self._client.download(self.id, to)
        return to.getvalue()

    def save(self, to: Path | str = ".") -> Path:
        """Write the file and return where it is. In a folder that exists it gets its own name, never over another file; any other path is the file
        itself, and takes the place of one that is there. StateError when it cannot be written."""
        with writing(self, Path(to)) as (file, path):
            self._client.download(self.id, file)
        return path

    def open_image(self) -> Any:
        """A PIL.Image.Image. PIL.UnidentifiedImageError for what is no picture that it knows."""
        return image_of(self.read())

    @property
    def _client(self) -> Client:
        found: Client = owner_of(self)
        return found


class Job(JobView, frozen=True, kw_only=True, dict=True):
    """A job as the daemon last told it: `id`, `status` (queued, running, canceling; succeeded, failed, canceled, expired), `outputs`, `error`,
    `progress`, `queue_position`, the times, and under `comfytunnel` what the Comfy API v2 has no place for."""

    outputs: list[Output]  # type: ignore[assignment]  # nobody writes to the list of a frozen shape

    def refresh(self) -> Self:
        """Ask the daemon how it stands, and return this same job, renewed."""
        renew(self, self._client.job(self.id))
        return self

    def wait(self, timeout: float | None = None, *, told: Callable[[JobEvent], None] | None = None) -> Self:
        """Return this same job, renewed, when it has ended, however: see `check`. Errors as of Client.run."""
        renew(self, self._client.finished(self.id, timeout=timeout, told=told))
        return self

    def follow(self, timeout: float | None = None) -> Iterator[JobEvent | Job]:
        """What happens to it, as of Client.follow."""
        return self._client.follow(self.id, timeout=timeout)

    def cancel(self) -> Self:
        """Ask for its end; ComfyUI acts on it between two steps. A job that has ended stays as it is."""
        renew(self, self._client.cancel(self.id))
        return self

    def retry(self) -> Job:
        """Return a new job like this one. RefusedError if this one has not ended."""
        return self._client.retry(self.id)

    def workflow(self) -> dict[str, Any]:
        """Return the graph in API format, as it was submitted."""
        return self._client.workflow_of(self.id)

    def save(self, folder: Path | str = ".") -> list[Path]:
        """Write every output into the folder, which is made if it is missing, and return the paths."""
        into = in_a_folder(folder)
        return [output.save(into) for output in self.outputs]

    @property
    def _client(self) -> Client:
        found: Client = owner_of(self)
        return found


class JobPage(wire.JobList, frozen=True):
    jobs: list[Job]  # type: ignore[assignment]  # as with `outputs`

"""The job and the output that the AsyncClient returns: as jobs.py, to be awaited."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from comfytunnel import wire
from comfytunnel.client.saving import in_a_folder, writing
from comfytunnel.client.views import JobView, OutputView, image_of, owner_of, renew
from comfytunnel.protocol import JobEvent

if TYPE_CHECKING:
    from comfytunnel.client.asynchronous import AsyncClient


class AsyncOutput(OutputView, frozen=True, kw_only=True, dict=True):
    async def read(self) -> bytes:
        """All of its bytes, through the daemon."""
        to = io.BytesIO()
        await self._client.download(self.id, to)
        return to.getvalue()

    async def save(self, to: Path | str = ".") -> Path:
        """Write the file and return where it is, as Output.save does."""
        with writing(self, Path(to)) as (file, path):
            await self._client.download(self.id, file)
        return path

    async def open_image(self) -> Any:
        """A PIL.Image.Image. PIL.UnidentifiedImageError for what is no picture that it knows."""
        return image_of(await self.read())

    @property
    def _client(self) -> AsyncClient:
        found: AsyncClient = owner_of(self)
        return found


class AsyncJob(JobView, frozen=True, kw_only=True, dict=True):
    """A job as the daemon last told it: the fields of Job."""

    outputs: list[AsyncOutput]  # type: ignore[assignment]  # nobody writes to the list of a frozen shape

    async def refresh(self) -> Self:
        """Ask the daemon how it stands, and return this same job, renewed."""
        renew(self, await self._client.job(self.id))
        return self

    async def wait(
        self, timeout: float | None = None, *, told: Callable[[JobEvent], None] | None = None
    ) -> Self:
        """Return this same job, renewed, when it has ended, however: see `check`. Errors as of AsyncClient.run."""
        renew(self, await self._client.finished(self.id, timeout=timeout, told=told))
        return self

    def follow(self, timeout: float | None = None) -> AsyncIterator[JobEvent | AsyncJob]:
        """What happens to it, as of AsyncClient.follow."""
        return self._client.follow(self.id, timeout=timeout)

    async def cancel(self) -> Self:
        """Ask for its end; ComfyUI acts on it between two steps. A job that has ended stays as it is."""
        renew(self, await self._client.cancel(self.id))
        return self

    async def retry(self) -> AsyncJob:
        """Return a new job like this one. RefusedError if this one has not ended."""
        return await self._client.retry(self.id)

    async def workflow(self) -> dict[str, Any]:
        """Return the graph in API format, as it was submitted."""
        return await self._client.workflow_of(self.id)

    async def save(self, folder: Path | str = ".") -> list[Path]:
        """Write every output into the folder, which is made if it is missing, and return the paths."""
        into = in_a_folder(folder)
        return [await output.save(into) for output in self.outputs]

    @property
    def _client(self) -> AsyncClient:
        found: AsyncClient = owner_of(self)
        return found


class AsyncJobPage(wire.JobList, frozen=True):
    jobs: list[AsyncJob]  # type: ignore[assignment]  # as with `outputs`

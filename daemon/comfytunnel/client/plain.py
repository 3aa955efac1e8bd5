"""The calls of the blocking client whose answer is a plain value: the daemon, its tunnels, named workflows, the queue, files. One line each: what is
asked stands in calls.py. What has to do with jobs and with waiting stands in blocking.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO, Literal

from comfytunnel import wire
from comfytunnel.client import calls
from comfytunnel.client.carrier import Carrier
from comfytunnel.client.uploads import form


class PlainCalls(Carrier):
    def status(self) -> wire.Status:
        return self.call(calls.status())

    def health(self) -> wire.Health:
        return self.call(calls.health())

    def ready(self) -> wire.Ready:
        """Whether work could be done now; `why` says for each tunnel what it lacks."""
        return self.call(calls.ready())

    def tunnels(self) -> dict[str, wire.Tunnel]:
        return self.call(calls.tunnels())

    def tunnel(self, name: str) -> wire.Tunnel:
        """NotFoundError for a name that is not configured; so too up, down and reconnect, which return the state right after."""
        return self.call(calls.tunnel(name))

    def up(self, name: str) -> wire.Tunnel:
        return self.call(calls.order(name, "up"))

    def down(self, name: str) -> wire.Tunnel:
        return self.call(calls.order(name, "down"))

    def reconnect(self, name: str) -> wire.Tunnel:
        return self.call(calls.order(name, "reconnect"))

    def trust(self, name: str, fingerprint: str | None = None) -> wire.Trust:
        """What known_hosts holds for the tunnel's host and what the host shows now; with the fingerprint that a person has seen that key
        is trusted from now on. RefusedError if the host shows another, or a revoked one; RemoteError if it cannot be reached."""
        return self.call(calls.trust(name, fingerprint))

    def outages(self, *, tunnel: str | None = None, limit: int | None = None) -> list[wire.Outage]:
        """Times without a link, the newest first: those that go on (`ended` None), then those that have ended."""
        return self.call(calls.outages(tunnel, limit)).outages

    def metrics(self) -> str:
        """What Prometheus reads."""
        return self.call(calls.metrics()).decode()

    def doctor(self, name: str | None = None) -> wire.Doctor:
        """Let the daemon take the whole road of one tunnel, or of each; takes up to 50 s. NotFoundError as with `tunnel`."""
        return self.call(calls.doctor(name))

    def reload(self) -> dict[str, Any]:
        """Let the daemon read its config again. ConfigError when it is broken; then nothing has changed."""
        return self.call(calls.reload())

    def workflows(self) -> list[wire.WorkflowInfo]:
        """The named workflows with the parameters that `generate` takes; one that cannot be used says why (`problem`)."""
        return self.call(calls.workflows()).workflows

    def workflow(self, name: str) -> wire.Workflow:
        """One of them with its graph. NotFoundError for a name that there is not."""
        return self.call(calls.workflow(name))

    def convert(self, workflow: dict[str, Any], *, tunnel: str | None = None) -> dict[str, Any]:
        """Return a workflow of ComfyUI's page (UI format) as one in API format, as far as what the daemon knows of ComfyUI's nodes goes; else WorkflowError
        with the way to export it."""
        return self.call(calls.convert(workflow, tunnel)).workflow

    def workflow_of(self, job_id: str) -> dict[str, Any]:
        return self.call(calls.workflow_of(job_id)).workflow

    def queue(self, order: Literal["pause", "drain", "resume"] | None = None) -> wire.Queue:
        """The queue as a whole, after an `order` if one is given."""
        return self.call(calls.queue(order))

    def upload(
        self, path: Path | str, *, name: str | None = None, content_type: str | None = None
    ) -> wire.Asset:
        """Send a file and return its asset, which a workflow may mean by its id or by its name (`file_path`; default: that of the file).
        UsageError if it cannot be read or is too large, StateError (`disk_full`)."""
        with form(Path(path), name, content_type) as (body, headers):
            return self.call(calls.upload(headers), body)

    def delete_asset(self, asset_id: str) -> None:
        """NotFoundError when there is none, RefusedError for what a job has made."""
        self.call(calls.delete_asset(asset_id))

    def download(self, asset_id: str, to: BinaryIO) -> int:
        """Write the asset's bytes to `to` and return their number."""
        done = 0
        for chunk in self.chunks(calls.content(asset_id)):
            to.write(chunk)
            done += len(chunk)
        return done

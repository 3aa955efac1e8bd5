"""Handler of POST /v1/workflows/convert: a workflow in the format of ComfyUI's page comes back in API format.

Judged by what is kept of a ComfyUI's /object_info (jobs/catalog.py), so it works while the tunnel is down; how is workflow/convert.py's to know.
"""

from __future__ import annotations

from aiohttp import web

from comfytunnel import wire
from comfytunnel.api.answers import answer, read_json
from comfytunnel.api.context import context


async def convert(request: web.Request) -> web.Response:
    asked = await read_json(request, wire.ConvertRequest)
    return answer(
        wire.ConvertedWorkflow(await context(request).scheduler.convert(asked.workflow, asked.tunnel))
    )

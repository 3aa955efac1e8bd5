"""What schemathesis cannot know of our API: a graph that runs. It loads this file by its name (SCHEMATHESIS_HOOKS), in a process of its own.

Of what is meant to fit, every other submission gets a workflow that ComfyUI takes, so that there are jobs to look at; the others keep what was made
up for them. And nobody is called: a webhook goes to a port where nobody listens.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import GenerationMode

from tests.app.world import workflow

MEANT = {"/api/v2/jobs", "/api/generate"}


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: dict[str, Any]) -> None:
    body = case.body
    if case.path not in MEANT or not isinstance(body, dict):
        return
    extra = body.get("comfytunnel")
    if isinstance(extra, dict) and isinstance(extra.get("webhook"), dict) and "url" in extra["webhook"]:
        extra["webhook"]["url"] = "http://127.0.0.1:9/"
    fits = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    if fits and isinstance(body.get("workflow"), dict) and len(str(body)) % 2:
        body["workflow"] = workflow(len(str(body)) % 255)

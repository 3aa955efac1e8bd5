"""/api/jobs of the stand-in: queue and history told as jobs, as 0.33 tells them (compared with a real one).

Pure: takes the engine's queue items and history entries, returns JSON shapes. An odd `extra_data` raises, as on the real
server, where it makes the list a 500 for everybody.
"""

from __future__ import annotations

from typing import Any

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
_END_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


def queued(item: Any, status: str) -> dict[str, Any]:
    """A pending or running queue item."""
    number, prompt_id, _, extra, *_ = item
    job = {"id": prompt_id, "status": status, "priority": number} | _origin(extra)
    return _without_none(job | {"outputs_count": 0, "previewable_outputs_count": 0})


def finished(prompt_id: str, entry: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """A history entry; `whole` adds outputs, status and workflow, as for a single job."""
    number, _, prompt, extra, _ = entry["prompt"]
    files = [
        (node, kind, file)
        for node, ui in entry["outputs"].items()
        for kind, all_ in ui.items()
        for file in all_
    ]
    job = {"id": prompt_id, "status": _status(entry["status"]), "priority": number} | _origin(extra)
    for event, data in entry["status"]["messages"]:
        if event == "execution_start":
            job["execution_start_time"] = data["timestamp"]
        if event in _END_EVENTS:
            job["execution_end_time"] = data["timestamp"]
        if event == "execution_error":
            job["execution_error"] = data
    job |= {"outputs_count": len(files), "previewable_outputs_count": len(files)}
    if files:
        node, kind, file = next((f for f in files if f[2].get("type") == "output"), files[0])
        job["preview_output"] = {**file, "nodeId": node, "mediaType": kind}
    job = _without_none(job)
    if whole:
        job |= {"outputs": entry["outputs"], "execution_status": entry["status"]}
        job["workflow"] = {"prompt": prompt, "extra_data": extra}
    return job


def listed(jobs: list[dict[str, Any]], query: Any) -> tuple[dict[str, Any], int]:
    """The answer of GET /api/jobs and its HTTP status, for all jobs and the request's query."""
    wanted = [status.strip().lower() for status in query.get("status", "").split(",") if status.strip()]
    if bad := [status for status in wanted if status not in STATUSES]:
        text = f"Invalid status value(s): {', '.join(bad)}. Valid values: {', '.join(STATUSES)}"
        return {"error": text}, 400
    if query.get("sort_by", "created_at").lower() not in ("created_at", "execution_duration"):
        return {"error": "sort_by must be 'created_at' or 'execution_duration'"}, 400
    if query.get("sort_order", "desc").lower() not in ("asc", "desc"):
        return {"error": "sort_order must be 'asc' or 'desc'"}, 400
    try:
        limit = int(query["limit"]) if "limit" in query else None
        offset = max(0, int(query.get("offset", "0")))
    except ValueError:
        return {"error": "limit must be an integer" if "limit" in query else "offset must be an integer"}, 400
    if limit is not None and limit <= 0:
        return {"error": "limit must be a positive integer"}, 400
    if workflow := query.get("workflow_id"):
        jobs = [job for job in jobs if job.get("workflow_id") == workflow]
    jobs = [job for job in jobs if not wanted or job["status"] in wanted]
    jobs.sort(key=_duration if "sort_by" in query and query["sort_by"].lower() != "created_at" else _created)
    if query.get("sort_order", "desc").lower() == "desc":
        jobs.reverse()
    page = jobs[offset:] if limit is None else jobs[offset : offset + limit]
    more = offset + len(page) < len(jobs)
    pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
    return {"jobs": page, "pagination": pagination}, 200


def _status(status: dict[str, Any]) -> str:
    if status["status_str"] == "success":
        return "completed"
    interrupted = any(event == "execution_interrupted" for event, _ in status["messages"])
    return "cancelled" if interrupted else "failed"


def _origin(extra: dict[str, Any]) -> dict[str, Any]:
    workflow_id = extra.get("extra_pnginfo", {}).get("workflow", {}).get("id")
    return {"create_time": extra.get("create_time"), "workflow_id": workflow_id}


def _created(job: dict[str, Any]) -> int:
    return int(job.get("create_time", 0))


def _duration(job: dict[str, Any]) -> int:
    return int(job.get("execution_end_time", 0)) - int(job.get("execution_start_time", 0))


def _without_none(job: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}

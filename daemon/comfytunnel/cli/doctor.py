"""`doctor`: the daemon's findings, a line for each step, then the first broken link and what to do about it.

Most of it is the daemon's to find out (GET /v1/doctor). Here is only what it cannot know: that it does not run, and which agent this shell
sees. Nothing secret is sent, and nothing is sent to the instance.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from comfytunnel import paths, wire
from comfytunnel.cli import exits, render, sites
from comfytunnel.cli.completing import tunnel_names
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.jobs import AsJson
from comfytunnel.errors import ConfigError, NotRunningError

_STEP_WIDTH = 15  # "authentication" and a blank
_INDENT = " " * 32  # where a step's words begin


def doctor(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One tunnel; otherwise all.", autocompletion=tunnel_names),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out where the road is broken, and what to do. The whole road is taken step by step, from the config to the disk.

    Exit code 0 when nothing fails, 1 when something does, 3 when no daemon runs (then only the config and the socket are looked at).
    """
    client = connect()
    try:
        found = client.doctor(name)
    except NotRunningError as error:
        found, code = _alone(client.socket_path, error), exits.NOT_RUNNING
    else:
        remarks = [remark for report in found.reports if (remark := agent_remark(report, os.environ))]
        found = msgspec.structs.replace(found, remarks=list(dict.fromkeys(remarks)))
        code = exits.FAILED if any(report.broken for report in found.reports) else exits.DONE
    if why := sites.trouble():
        found = msgspec.structs.replace(found, remarks=[*found.remarks, why])
    exits.tell(render.json_text(found, indent=2) if as_json else text(found))
    raise typer.Exit(code)


def _alone(socket_path: Path, error: NotRunningError) -> wire.Doctor:
    """What can be seen without a daemon."""
    from comfytunnel import config

    path = paths.config_path()
    try:
        config.load(path)
        good = wire.Check("config", "pass", 0.0, str(path))
    except ConfigError as wrong:
        good = wire.Check("config", "fail", 0.0, wrong.message, wrong.hint)
    silent = isinstance(error.__cause__, TimeoutError)  # then somebody holds the socket
    detail = error.message if silent else f"{error.message}{_socket_words(socket_path)}"
    steps = [good, wire.Check("daemon", "fail", 0.0, detail, error.hint)]
    broken = next(check.step for check in steps if check.result == "fail")
    return wire.Doctor(str(path), [wire.Report(broken=broken, steps=steps)])


def _socket_words(path: Path) -> str:
    """What lies at the socket's path, where that says more."""
    try:
        found = path.lstat()
    except OSError:
        return ""
    if found.st_uid != os.geteuid():
        return f" The file there belongs to another user (uid {found.st_uid})."
    if not stat.S_ISSOCK(found.st_mode):
        return " What lies there is not a socket."
    return " A daemon that has ended without its goodbye left the socket there; the next one replaces it."


def agent_remark(report: wire.Report, environ: Mapping[str, str]) -> str:
    """What to say if the daemon looks for its agent in the environment and does not see the one that this shell sees, else ""."""
    shell, agent = environ.get("SSH_AUTH_SOCK", ""), report.agent
    if not shell or agent is None or agent.source not in ("", "environment") or agent.socket == shell:
        return ""
    sees = f"the daemon asks {agent.socket}" if agent.socket else "the daemon sees none"
    return (
        f"{report.tunnel}: this shell has an SSH agent at {shell}, {sees}. A service gets no SSH_AUTH_SOCK of a login: name the "
        f'socket in the config (agent = "{shell}"), or as IdentityAgent in ssh_config.'
    )


def text(found: wire.Doctor) -> str:
    """Return all of it for a person."""
    found = render.safe(found)
    lines: list[str] = []
    for report in found.reports:
        lines += [*([""] if lines else []), *_report_lines(report)]
    lines += [line for remark in found.remarks for line in ("", remark)]
    return "\n".join(lines)


def _report_lines(report: wire.Report) -> list[str]:
    lines = []
    if report.tunnel is not None:
        lines.append(f"{report.tunnel}: {render.PHASES.get(report.phase or '', report.phase)}")
    for check in report.steps:
        took = f"{check.seconds:6.2f} s" if check.result != "skip" else " " * 8
        lines.append(f"  {check.result.upper():<4}  {check.step:<{_STEP_WIDTH}}{took}  {check.detail}")
        if check.hint:
            lines.append(f"{_INDENT}-> {check.hint}")
    if report.banner and report.banner.strip():
        lines.append("  The host says before a login:")
        lines += [f"    {line.rstrip()}" for line in report.banner.strip().splitlines()]
    lines.append(_verdict(report))
    return lines


def _verdict(report: wire.Report) -> str:
    """Return the first broken link with the next step, or that there is none."""
    if report.broken is None:
        skipped = [check.step for check in report.steps if check.result == "skip"]
        if not skipped:
            return "All is well."
        return f"Nothing is broken as far as one can see; not tried: {', '.join(skipped)}."
    hint = next((check.hint for check in report.steps if check.step == report.broken), "")
    return f"Broken: {report.broken}.{f' {hint}' if hint else ''}"

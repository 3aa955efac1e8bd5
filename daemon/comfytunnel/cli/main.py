"""The command line: what it takes, and which room does it. Thin: words come from render.py, deeds from client.py.

Whatever a single command needs is imported inside it, so that `status` starts in a tenth of a second. Expected errors end in one line,
a hint and an exit code (exits.py), never in a traceback; `main` is the only place that catches them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from comfytunnel import __version__, wire
from comfytunnel.cli import configs, doctor, exits, jobs, render, sending, service, setups, workflows
from comfytunnel.cli import daemon as options
from comfytunnel.cli.completing import ASKED, completion, learn_shells
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.events import events
from comfytunnel.cli.jobs import AsJson
from comfytunnel.cli.trust import trust
from comfytunnel.cli.tunnels import TunnelName, one_tunnel
from comfytunnel.cli.ui import ui
from comfytunnel.cli.waits import wait
from comfytunnel.errors import Error

app = typer.Typer(
    name="comfytunnel",
    help="Keeps the SSH tunnel to a rented ComfyUI alive and runs workflows through it.",
    epilog="Exit codes: 0 done, 1 failed, 2 usage or config, 3 daemon not running, 4 timed out, 5 refused.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
)
app.add_typer(jobs.app, name="jobs")
app.add_typer(configs.app, name="config")
app.add_typer(workflows.app, name="workflow")


def main() -> None:
    """Run the command line of this process and exit."""
    if ASKED in os.environ:
        learn_shells()
    with exits.output_may_fail():
        try:
            app(prog_name="comfytunnel")
        except Error as error:
            sys.exit(exits.complain(error, as_json="--json" in sys.argv[1:]))


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        exits.tell(f"comfytunnel {__version__}")
        raise typer.Exit


@app.command(epilog="Example: comfytunnel daemon --config ./config.toml")
def daemon(
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help=options.CONFIG)] = None,
    socket: Annotated[Path | None, typer.Option("--socket", metavar="PATH", help=options.SOCKET)] = None,
    state_dir: Annotated[
        Path | None, typer.Option("--state-dir", metavar="DIR", help=options.STATE_DIR)
    ] = None,
) -> None:
    """Run the daemon in the foreground. It holds the tunnels, runs the jobs and serves the control socket."""
    given = {"--config": config, "--socket": socket, "--state-dir": state_dir}
    arguments = [f"{name}={path}" for name, path in given.items() if path is not None]
    raise typer.Exit(options.main(arguments))


app.command(
    epilog="Example: comfytunnel setup 'ssh -p 13273 root@ssh2.vast.ai'",
    context_settings={"ignore_unknown_options": True},
)(setups.setup)  # an ssh line may stand without quotes


app.command(epilog="Example: comfytunnel doctor")(doctor.doctor)
app.command(epilog="Example: comfytunnel install --dry-run")(service.install)
app.command(epilog="Example: comfytunnel uninstall")(service.uninstall)
app.command(epilog="Example: comfytunnel restart")(service.restart)
app.command(epilog="Example: comfytunnel logs -f --since '10 min ago'")(service.logs)


@app.command(epilog="Example: comfytunnel demo")
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running to play with.")] = False,
) -> None:
    """Show the whole road on this machine. A remote of our own, a daemon, one picture, one cut: no instance is needed."""
    try:
        from comfytunnel.demo.run import run_demo

        code = run_demo(keep)
    except KeyboardInterrupt:  # before it listens to signals itself: nothing has begun
        code = exits.FAILED
    raise typer.Exit(code)


@app.command(epilog="Example: comfytunnel status --watch")
def status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on and show every change; q ends it.")] = False,
    history: Annotated[bool, typer.Option("--history", help="Show the outages, the newest first.")] = False,
) -> None:
    """Say what state the tunnels are in, why, and what comes next."""
    from comfytunnel.cli.status import tell_status  # the quick way to it is __main__.py's

    tell_status(as_json=as_json, watch=watch, history=history)


app.command(epilog="Example: comfytunnel wait --for up --timeout 60")(wait)


@app.command(epilog="Example: comfytunnel up")
def up(name: TunnelName = None, as_json: AsJson = False) -> None:
    """Bring a tunnel up and keep it up."""
    client = connect()
    chosen = one_tunnel(client, name)
    _tell_tunnel(chosen, client.up(chosen), as_json)


@app.command(epilog="Example: comfytunnel down")
def down(name: TunnelName = None, as_json: AsJson = False) -> None:
    """Take a tunnel down until `up`."""
    client = connect()
    chosen = one_tunnel(client, name)
    _tell_tunnel(chosen, client.down(chosen), as_json)


@app.command(epilog="Example: comfytunnel reconnect default")
def reconnect(name: TunnelName = None, as_json: AsJson = False) -> None:
    """Drop the link and make a new one at once."""
    client = connect()
    chosen = one_tunnel(client, name)
    _tell_tunnel(chosen, client.reconnect(chosen), as_json)


app.command(epilog="Example: comfytunnel trust")(trust)
app.command(epilog="Example: comfytunnel queue pause")(jobs.queue)
app.command(epilog="Example: comfytunnel ui")(ui)


def _tell_tunnel(name: str, tunnel: wire.Tunnel, as_json: bool) -> None:
    exits.tell(render.json_text(tunnel, indent=2) if as_json else render.tunnel_line(name, tunnel))


app.command(epilog="Example: comfytunnel events --json")(events)


app.command(
    "run", epilog="Example: comfytunnel run workflow.json --set 3.steps=20 --input 10.image=photo.png -o ."
)(sending.run)
app.command("submit", epilog="Example: comfytunnel submit workflow.json --label first --repeat 4")(
    sending.submit
)
app.command(epilog="Example: comfytunnel completion bash")(completion)

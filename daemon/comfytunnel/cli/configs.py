"""`config check | show | path | reload`: the file as the daemon would read it. Writing it is setup.py's."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from comfytunnel import paths
from comfytunnel.cli import exits, render
from comfytunnel.cli.daemons import connect
from comfytunnel.errors import ConfigError
from comfytunnel.printable import printable

app = typer.Typer(
    help="Check, show and reload the config.",
    epilog="Example: comfytunnel config check",
    rich_markup_mode=None,
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Default: the config that the daemon reads.")
]


@app.command("check", epilog="Example: comfytunnel config check")
def check(file: File = None, as_json: AsJson = False) -> None:
    """Read the config and name every mistake. Exit code 2 if there is one."""
    from comfytunnel import config

    path = file or paths.config_path()
    try:
        config.load(path)
    except ConfigError as error:
        if not as_json:
            raise
        problems = [dataclasses.asdict(problem) for problem in error.problems]
        exits.tell(render.json_text({"path": str(path), "ok": False, "problems": problems}, indent=2))
        raise typer.Exit(exits.exit_code(error)) from error
    good = {"path": str(path), "ok": True, "problems": []}
    exits.tell(render.json_text(good, indent=2) if as_json else f"{printable(str(path))}: good")


@app.command("show", epilog="Example: comfytunnel config show")
def show(file: File = None, as_json: AsJson = False) -> None:
    """Print every setting with its value.

    Those that the file leaves out too, and all as one may write them there.
    """
    from comfytunnel import config
    from comfytunnel.cli import asfile

    found = config.load(file or paths.config_path())
    tables = asfile.tables(found)
    if as_json:
        exits.tell(render.json_text(_nested(tables) | {"source": str(found.source)}, indent=2))
        return
    lines = [f"# {found.source}"]
    for table, values in tables.items():
        lines += ["", f"[{table}]"]
        for key, value in values.items():
            if value is None or f"{table}.{key}" in asfile.HIDDEN:
                lines.append(f"# {key}: {'not set' if not value else 'set, and not shown'}")
            else:
                lines.append(f"{key} = {render.json_text(value)}")
    exits.tell("\n".join(map(printable, lines)))


@app.command("path", epilog="Example: comfytunnel config path")
def path(as_json: AsJson = False) -> None:
    """Print where the config lies."""
    where = str(paths.config_path())
    exits.tell(render.json_text({"path": where}) if as_json else printable(where))


@app.command("reload", epilog="Example: comfytunnel config reload")
def reload(as_json: AsJson = False) -> None:
    """Let the running daemon read its config again. A broken one changes nothing and is told."""
    answer = connect().reload()
    if as_json:
        exits.tell(render.json_text(answer, indent=2))
        return
    changes = [
        f"{what} {', '.join(answer[what])}" for what in ("added", "removed", "changed") if answer.get(what)
    ]
    changes += [f"[{section}]" for section in answer.get("sections", ())]
    text = "; ".join(changes) or "all is as it was"
    exits.tell(printable(f"reloaded {answer.get('reloaded')}: {text}"))
    for folder in answer.get("read_only", ()):
        from comfytunnel.folders import AGAIN

        exits.say(f"warning: {folder} is read-only to the daemon.")
        exits.say(f"  {AGAIN}")


def _nested(tables: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return what `tunnels.NAME` and the other tables are in the file."""
    nested: dict[str, Any] = {"tunnels": {}}
    for table, values in tables.items():
        head, _, name = table.partition(".")
        if name:
            nested[head][name] = values
        else:
            nested[head] = values
    return nested

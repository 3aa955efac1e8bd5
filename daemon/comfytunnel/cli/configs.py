"""`config check | show | path | reload`: the file as the daemon would read it. Writing it is setup.py's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from comfytunnel import paths
from comfytunnel.cli import exits, render
from comfytunnel.cli.daemons import connect
from comfytunnel.errors import ConfigError
from comfytunnel.printable import printable

app = typer.Typer(help="Check, show and reload the config.", rich_markup_mode=None, no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
File = Annotated[
    Path | None, typer.Argument(metavar="[FILE]", help="Default: the config that the daemon reads.")
]


@app.command("check")
def check(file: File = None, as_json: AsJson = False) -> None:
    """Read the config and name every mistake (exit 2)."""
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


@app.command("show")
def show(file: File = None, as_json: AsJson = False) -> None:
    """Print every setting with its value, those that the file leaves out too."""
    from comfytunnel import config

    found = _plain(config.load(file or paths.config_path()))
    if found["web"]["token"]:
        found["web"]["token"] = "***"  # noqa: S105 - stands where the token would be shown
    if as_json:
        exits.tell(render.json_text(found, indent=2))
        return
    for name, value in _dotted("", found):
        exits.tell(printable(f"{name} = {render.json_text(value)}"))


@app.command("path")
def path(as_json: AsJson = False) -> None:
    """Print where the config lies."""
    where = str(paths.config_path())
    exits.tell(render.json_text({"path": where}) if as_json else printable(where))


@app.command("reload")
def reload(as_json: AsJson = False) -> None:
    """Let the running daemon read its config again; a broken one changes nothing and is told."""
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


def _plain(value: Any) -> Any:
    """Return a config value as JSON has it; paths and endpoints in the words of the file."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value)


def _dotted(prefix: str, value: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict) and item:
            yield from _dotted(f"{prefix}{name}.", item)
        else:
            yield f"{prefix}{name}", item

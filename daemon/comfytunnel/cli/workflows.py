"""`workflow add | list | show | remove`: the folder of workflows that have a name. What is in them the daemon tells; only here files are written.

The folder lies beside the config of the daemon that runs, so that what is added is what it shows; without one beside that which it would read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from comfytunnel import paths, wire
from comfytunnel.cli import exits, render
from comfytunnel.cli.completing import workflow_names
from comfytunnel.cli.daemons import connect
from comfytunnel.errors import NotFoundError, NotRunningError, StateError, UsageError
from comfytunnel.printable import printable

app = typer.Typer(
    help="Keep workflows under a name.",
    epilog="Example: comfytunnel workflow add portrait.json",
    rich_markup_mode=None,
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.", autocompletion=workflow_names)]
TEXT_SHOWN = 60  # characters of a default


@app.command("add", epilog="Example: comfytunnel workflow add portrait.json --name portrait")
def add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The workflow; - reads stdin.")],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Otherwise that of the file.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of one that is there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Keep a workflow under a name.

    `POST /api/generate` and the web page take it by that. One in the format of ComfyUI's page is converted. What a person may set in it is found by itself; a NAME.toml beside it adjusts that.
    """
    import msgspec

    from comfytunnel.cli.asking import asker
    from comfytunnel.cli.setupfile import replace as write
    from comfytunnel.named import MAX_BYTES, Found, check_name, described
    from comfytunnel.workflow.graph import parse_api_graph

    if file == "-" and name is None:
        raise UsageError("A workflow from stdin has no name.", hint="Give it one: --name NAME")
    graph = _read(file)  # first: a file that is not there has no name to complain about
    chosen = check_name(Path(file).name.removesuffix(".json") if name is None else name)
    parse_api_graph(graph)
    data = msgspec.json.format(msgspec.json.encode(graph), indent=2).decode() + "\n"
    if len(data.encode()) > MAX_BYTES:
        raise UsageError(
            f"The workflow has more than {MAX_BYTES // 2**20} MiB, the most that is kept under a name."
        )
    folder = _folder()
    path = folder / f"{chosen}.json"
    if (path.exists() or path.is_symlink()) and not replace:
        ask = None if as_json else asker("Nothing was changed.")
        if ask is None or not ask(f"There is a workflow {chosen}. Replace it?"):
            raise UsageError(
                f"There is a workflow {chosen!r} already.", hint="Take another --name, or --replace."
            )
    paths.make_private_folder(folder)
    try:
        write(path, data)
    except OSError as error:
        raise StateError(
            f"{path} cannot be written: {error.strerror}.", hint="Check the folder and the disk."
        ) from error
    made = described(Found(chosen, graph))
    if as_json:
        exits.tell(
            render.json_text({"path": str(path), "parameters": made.parameters, "name": chosen}, indent=2)
        )
        return
    exits.tell(
        f"{printable(str(path))}: {', '.join(each.name for each in made.parameters) or 'nothing to set'}"
    )


def _read(file: str) -> dict[str, Any]:
    from comfytunnel.cli.reading import read_json
    from comfytunnel.workflow.graph import is_ui_format

    found = read_json(file)
    return connect().convert(found) if is_ui_format(found) else found


@app.command("list", epilog="Example: comfytunnel workflow list")
def listing(as_json: AsJson = False) -> None:
    """Show the workflows that have a name.

    Each with what may be set in it, or why it cannot be used.
    """
    found = connect().workflows()
    if as_json:
        exits.tell(render.json_text(found, indent=2))
        return
    for each in map(render.safe, found):
        names = ", ".join(one.name for one in each.parameters if not one.hidden)
        why = each.problem
        said = f"{why.message} {why.hint}".strip() if why else names or "nothing to set"
        exits.tell(
            f"{each.name}  {said}" if each.title == each.name else f"{each.name}  ({each.title})  {said}"
        )
    if not found:
        exits.say("There is none. Keep one: comfytunnel workflow add FILE")


@app.command("show", epilog="Example: comfytunnel workflow show portrait")
def show(name: Name, as_json: AsJson = False) -> None:
    """Show what may be set in a workflow.

    Each with its limits, and what it is where nothing is given.
    """
    found = connect().workflow(name)
    exits.tell(render.json_text(found, indent=2) if as_json else "\n".join(_lines(render.safe(found))))


def _lines(found: wire.Workflow) -> Iterator[str]:
    yield found.title
    if found.description:
        yield found.description
    if found.problem is not None:
        yield f"cannot be used: {found.problem.message} {found.problem.hint}".rstrip()
    width = max((len(each.name) for each in found.parameters), default=0)
    for each in found.parameters:
        hidden = "  (hidden)" if each.hidden else ""
        yield f"  {each.name:{width}}  {each.label}: {_value(each)}{_range(each)}{hidden}"


def _value(each: wire.Parameter) -> str:
    if each.kind == "seed":
        return "drawn for each job"
    text = render.json_text(each.default)
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}..."


def _range(each: wire.Parameter) -> str:
    if each.kind in ("integer", "number") and (each.min is not None or each.max is not None):
        low, high = ("" if limit is None else f"{limit:g}" for limit in (each.min, each.max))
        return f"  [{low} to {high}]"
    return f"  one of {len(each.choices)}" if each.choices is not None else ""


@app.command("remove", epilog="Example: comfytunnel workflow remove portrait")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a workflow and the TOML beside it.

    You are asked first; without a terminal, and with --json, it wants --yes.
    """
    from comfytunnel.cli.asking import agree
    from comfytunnel.named import check_name

    folder = _folder()
    files = [folder / f"{check_name(name)}{ending}" for ending in (".json", ".toml")]
    there = [path for path in files if path.exists() or path.is_symlink()]
    if not there:
        raise NotFoundError(
            f"There is no workflow {name!r} in {folder}.",
            hint="comfytunnel workflow list shows those that there are.",
        )
    names = " and ".join(path.name for path in there)
    agree(f"Remove {names}?", yes=yes, stopped="Nothing was removed.", quiet=as_json)
    try:
        for path in there:
            path.unlink()
    except OSError as error:
        raise StateError(f"{error.filename} cannot be removed: {error.strerror}.") from error
    removed = [str(path) for path in there]
    exits.tell(
        render.json_text({"removed": removed}, indent=2)
        if as_json
        else printable(f"removed {', '.join(removed)}")
    )


def _folder() -> Path:
    try:
        return paths.workflows_dir(Path(connect().status().config))
    except NotRunningError:
        return paths.workflows_dir(paths.config_path())

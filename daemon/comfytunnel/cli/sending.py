"""`run` and `submit`: what they take. One command in two tempers: `run` waits for the end and tells the files, `submit` tells the ids and leaves.

Reading the workflow is reading.py's, what is changed in it inputs.py's, following it run.py's: imported when the command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from comfytunnel.cli.completing import tunnel_names
from comfytunnel.cli.daemons import connect
from comfytunnel.cli.jobs import AsJson, Folder, Pictures
from comfytunnel.errors import UsageError

Workflow = Annotated[
    str,
    typer.Argument(
        metavar="WORKFLOW",
        help="A file, as ComfyUI saves or exports it, or the name of a kept workflow; - reads stdin.",
    ),
]
OnTunnel = Annotated[
    str | None,
    typer.Option(
        "--tunnel", metavar="NAME", help="Run it there; otherwise anywhere.", autocompletion=tunnel_names
    ),
]
Label = Annotated[
    str | None, typer.Option("--label", metavar="TEXT", help="A name for the job, for you to find it by.")
]
Ttl = Annotated[
    float | None,
    typer.Option("--ttl", metavar="SECONDS", min=0.001, help="Let it expire unless it runs by then."),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Fail rather than wait for a tunnel or ComfyUI.")]
Priority = Annotated[
    int, typer.Option("--priority", metavar="N", min=-1000, max=1000, help="Higher runs earlier.")
]
Webhook = Annotated[
    str | None,
    typer.Option("--webhook", metavar="URL", help="Tell http(s)://... or unix:/PATH when the job has ended."),
]
Params = Annotated[
    list[str] | None,
    typer.Option("--param", metavar="NAME=VALUE", help="A value of a kept workflow. Again for more."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="NODE.INPUT=FILE", help="Upload FILE and use it there; again for more."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NODE.INPUT=VALUE",
        help="Another value; NODE is an id, a title or a class. With := the value is JSON. Again for more.",
    ),
]
Seed = Annotated[
    str | None,
    typer.Option("--seed", metavar="random|fixed|N", help="For all seeds; N counts up over --repeat."),
]
Repeat = Annotated[
    int, typer.Option("--repeat", metavar="N", min=1, help="Run it N times, each with another seed.")
]
Vary = Annotated[
    list[str] | None,
    typer.Option(
        "--vary", metavar="NODE.INPUT=A,B,...", help="A job for each value; again for each combination."
    ),
]
Open = Annotated[
    bool, typer.Option("--open", help="Open the pictures in the system's viewer when they are there.")
]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Follow it to its end, or leave it to the daemon.")
]


def _command(told: str, *, waits: bool) -> Callable[..., None]:
    def command(
        workflow: Workflow,
        params: Params = None,
        sets: Sets = None,
        inputs: Inputs = None,
        seed: Seed = None,
        repeat: Repeat = 1,
        vary: Vary = None,
        wait: Wait = waits,
        output: Folder = None,
        opened: Open = False,
        pictures: Pictures = None,
        tunnel: OnTunnel = None,
        label: Label = None,
        priority: Priority = 0,
        ttl: Ttl = None,
        fail_fast: FailFast = False,
        webhook: Webhook = None,
        as_json: AsJson = False,
    ) -> None:
        from comfytunnel.cli import run as runs
        from comfytunnel.cli.inputs import Changes, changed
        from comfytunnel.cli.reading import read_workflow
        from comfytunnel.cli.watching import get_ready

        if not wait and (output is not None or opened):
            raise UsageError(
                f"{'-o' if output is not None else '--open'} needs the end of the job.", hint="Add --wait."
            )
        if wait:
            get_ready(output, pictures)
        client = connect()
        asked = Changes(sets or (), inputs or (), seed, repeat, vary or ())
        read = read_workflow(client, workflow, tunnel, params or ())
        variants = changed(client, read.workflow, asked, read.kept)
        terms = {
            "made_from": read.made_from,
            "tunnel": tunnel,
            "label": label,
            "priority": priority,
            "ttl": ttl,
            "fail_fast": fail_fast,
            "webhook": webhook,
        }
        if wait:
            raise typer.Exit(
                runs.run(
                    client,
                    variants,
                    folder=output,
                    opened=opened,
                    as_json=as_json,
                    pictures=pictures,
                    **terms,
                )
            )
        runs.hand_over(client, variants, as_json=as_json, **terms)

    command.__doc__ = told
    return command


run = _command(
    """Run a workflow and print the paths of its files. Its progress is shown meanwhile.

    Several jobs (--repeat, --vary) are all handed over first and followed then. Ctrl-C asks whether to cancel what has not ended or leave it running; without a
    terminal it is left running. The exit code is 0 only if every job has succeeded.
    """,
    waits=True,
)
submit = _command(
    """Hand over a workflow and print the job's id. It runs when a tunnel is there.""",
    waits=False,
)

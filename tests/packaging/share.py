"""What lies in share/ and is installed as it is: the manual pages, made from what the program says of itself (comfytunnel(1) from the tree of commands,
comfytunnel.toml(5) from config.example.toml, which other tests hold against the program), and the shells' completion. `make share` writes it; a test says
when it is stale.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from comfytunnel import __version__
from comfytunnel.cli.completing import SCRIPTS
from comfytunnel.cli.main import app

ROOT = Path(__file__).parents[2]
SHARE = ROOT / "share"
KEY = re.compile(r"(# )?([a-z_]+) = (.+?)(?:\s+# (.*))?")
EXAMPLE = "Example: "
TREE: Any = typer.main.get_command(app)
LINE = 72  # characters of a source line, before what roff needs besides
PLAIN = str.maketrans({"-": "\\-", "'": "\\(aq", "~": "\\(ti", "^": "\\(ha", "`": ""})

INTRODUCTION = (
    (
        "comfytunnel is a background daemon that owns the SSH tunnel to a rented GPU (a Vast.ai instance that runs ComfyUI) and keeps it usable "
        "through sleep, trains and relay restarts. Its local port never refuses a caller: whoever comes while the link is being made is held at the door and then "
        "served. Through a control socket every local tool can ask what state the tunnel is in and why, and hand over a workflow: a job that was accepted "
        "is on disk, runs when it can, and ends as files on this machine."
    ),
    "Every command that prints for people prints JSON with --json. None asks a question without a terminal.",
)
DEFAULTS = "Each key is shown with its default; where it has none, with an example."
EXITS = {
    "0": "Done.",
    "1": "Failed: the job, the check.",
    "2": "Usage, or the config.",
    "3": "The daemon is not running.",
    "4": "Timed out.",
    "5": "Refused; a second daemon too.",
    "130": "Ended by Ctrl-C.",
}
ENVIRONMENT = {
    "COMFYTUNNEL_CONFIG": "The config file.",
    "COMFYTUNNEL_SOCKET": "The control socket.",
    "COMFYTUNNEL_STATE_DIR": "The folder of the jobs.",
    "SSH_AUTH_SOCK": "The SSH agent that the daemon asks, unless the config names one. A service does not see the one of a login.",
}
FILES = {
    "~/.config/comfytunnel/config.toml": "The config, see comfytunnel.toml(5). On macOS ~/Library/Application Support/comfytunnel/config.toml.",
    "$XDG_RUNTIME_DIR/comfytunnel/control.sock": "The control socket. Without that variable run/control.sock beside the jobs.",
    "~/.local/state/comfytunnel/jobs.db": "The jobs. On macOS in ~/Library/Application Support/comfytunnel.",
    "~/Pictures/comfytunnel/": "What the jobs have made.",
}


def text(words: str, *, whole: bool = False) -> str:
    """Words as roff takes them: lines of a source, or one line; nothing in them is a request, an escape or turned into typography."""
    lines = [words] if whole else textwrap.wrap(words, LINE, break_on_hyphens=False, break_long_words=False)
    return "\n".join(
        f"\\&{each}" if each.startswith(".") else each
        for each in (line.replace("\\", "\\e").translate(PLAIN) for line in lines)
    )


def bold(words: str) -> str:
    return f"\\fB{text(words, whole=True)}\\fR"


def tagged(tag: str, words: str) -> Iterator[str]:
    yield from (".TP", tag, text(words))


def head(name: str, section: int, what: str) -> Iterator[str]:
    yield '.\\" Made by tests/packaging/share.py: change what it reads, then `make share`.'
    yield f'.TH {name.upper()} {section} "" "comfytunnel {__version__}"'
    yield from (".SH NAME", f"{text(name)} \\- {text(what, whole=True)}")


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield (*path, name), inner
        yield from walk(inner, (*path, name))


def paragraphs(words: str) -> list[str]:
    return [" ".join(each.split()) for each in words.split("\n\n") if each.strip()]


def command_lines(path: tuple[str, ...], command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    named = [str(each.metavar or each.name).strip() for each in arguments]
    usage = " ".join([bold(" ".join(path)), "[options]", *(text(name, whole=True) for name in named)])
    yield from (f".SS {usage}", *_spread(paragraphs(command.help or "")))
    for argument, name in zip(arguments, named, strict=True):
        yield from tagged(f"\\fI{text(name.strip('[]'), whole=True)}\\fR", argument.help or "")
    for option in command.params:
        if option.param_type_name != "option":
            continue
        value = "" if option.is_flag else f" \\fI{text(option.metavar, whole=True)}\\fR"
        default = "" if option.is_flag or option.default is None else f" Default: {option.default}."
        yield from tagged(", ".join(map(bold, option.opts)) + value, f"{option.help}{default}")
    example = (command.epilog or "").removeprefix(EXAMPLE)
    yield from (".PP", EXAMPLE.strip(), ".PP", ".RS 4", ".nf", text(example, whole=True), ".fi", ".RE")


def _spread(found: list[str]) -> Iterator[str]:
    for number, each in enumerate(found):
        if number:
            yield ".PP"
        yield text(each)


def commands() -> str:
    lines = [
        *head("comfytunnel", 1, "keep the tunnel to a rented ComfyUI, and run workflows"),
        *(".SH SYNOPSIS", f"{bold('comfytunnel')} \\fIcommand\\fR [options] [arguments]"),
        *(".SH DESCRIPTION", *_spread(list(INTRODUCTION)), ".SH COMMANDS"),
    ]
    for path, command in walk(TREE):
        if not hasattr(command, "commands") or command.invoke_without_command:
            lines += command_lines(path, command)
    for title, table in (("EXIT STATUS", EXITS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        lines.append(f".SH {title}")
        for tag, words in table.items():
            lines += tagged(bold(tag), words)
    lines += [".SH SEE ALSO", ".BR comfytunnel.toml (5),", ".BR ssh (1),", ".BR ssh_config (5)"]
    return "\n".join([*lines, ""])


def config() -> str:
    lines = [
        *head("comfytunnel.toml", 5, "the config of comfytunnel"),
        ".SH DESCRIPTION",
        text(DEFAULTS),
    ]
    prose: list[str] = []

    def flush() -> Iterator[str]:
        if prose:
            yield from (*([] if lines[-1].startswith(".SH") else [".PP"]), text(" ".join(prose)))
            prose.clear()

    for line in (ROOT / "config.example.toml").read_text().splitlines():
        key = KEY.fullmatch(line)
        if line.startswith("["):
            lines += [*flush(), f'.SH "{text(line, whole=True)}"']
        elif key is not None:
            lines += flush()
            example = " (an example)" if key[1] or key[2] == "ssh" else ""
            lines += [".TP", bold(f"{key[2]} = {key[3]}") + example, text(_sentence(key[4]))]
        elif line.startswith("#"):
            prose.append(line.removeprefix("#").strip())
        elif not line:
            lines += flush()
    lines += [*flush(), ".SH SEE ALSO", ".BR comfytunnel (1)"]
    return "\n".join([*lines, ""])


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def files() -> dict[Path, str]:
    """Every file of share/ by its place."""
    return {
        SHARE / "man" / "man1" / "comfytunnel.1": commands(),
        SHARE / "man" / "man5" / "comfytunnel.toml.5": config(),
        SHARE / "bash-completion" / "completions" / "comfytunnel": SCRIPTS["bash"],
        SHARE / "zsh" / "site-functions" / "_comfytunnel": SCRIPTS["zsh"],
        SHARE / "fish" / "vendor_completions.d" / "comfytunnel.fish": SCRIPTS["fish"],
    }


if __name__ == "__main__":
    for path, page in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)

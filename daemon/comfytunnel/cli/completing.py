"""Shell completion: the command that prints a shell's script, and what only the daemon knows (names of tunnels, ids of jobs).

The script asks this program at each TAB, by way of typer. It must be quick and never speak: a daemon that does not answer at once has no names.
Nothing that somebody else may have written (a label) is offered: the shells evaluate what they are given.
"""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer

from comfytunnel.cli.daemons import for_completion
from comfytunnel.cli.words import choose, offering
from comfytunnel.errors import Error

ASKED = "_COMFYTUNNEL_COMPLETE"  # the variable by which a shell's script asks; typer makes the name of the program's
JOBS_OFFERED = 20


SCRIPTS = {
    "bash": """\
_comfytunnel() {
    local IFS=$'\\n'
    COMPREPLY=($(env _COMFYTUNNEL_COMPLETE=complete_bash COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" "$1" 2>/dev/null))
}
complete -o default -F _comfytunnel comfytunnel
""",
    "zsh": """\
#compdef comfytunnel
_comfytunnel() {
    eval "$(env _COMFYTUNNEL_COMPLETE=complete_zsh _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" "${words[1]}" 2>/dev/null)"
}
if [[ "${funcstack[1]}" == _comfytunnel ]]; then
    _comfytunnel "$@"  # from fpath, at the first TAB
else
    compdef _comfytunnel comfytunnel
fi
""",
    "fish": """\
function __comfytunnel_ask
    env _COMFYTUNNEL_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] _TYPER_COMPLETE_ARGS=(commandline -cp) comfytunnel 2>/dev/null
end
complete -c comfytunnel -f -n '__comfytunnel_ask is-args' -a '(__comfytunnel_ask get-args)'
""",
}
"""What each shell reads, the same bytes as in share/. Where nothing of ours fits, the shell offers files."""


def completion(
    shell: Annotated[
        str,
        typer.Argument(metavar="bash|zsh|fish", help="Your shell.", autocompletion=offering(tuple(SCRIPTS))),
    ],
) -> None:
    """Print the script that completes commands on TAB.

    bash: eval "$(comfytunnel completion bash)" in ~/.bashrc. zsh: the same with zsh in ~/.zshrc, after compinit. fish: comfytunnel completion fish >
    ~/.config/fish/completions/comfytunnel.fish
    """
    sys.stdout.write(SCRIPTS[choose(shell, tuple(SCRIPTS), "shell that is known")])


def learn_shells() -> None:
    """Let typer know the shells, which it learns by itself only together with options of its own."""
    from typer.completion import get_completion_inspect_parameters

    get_completion_inspect_parameters()


def tunnel_names(incomplete: str) -> list[str]:
    try:
        return [name for name in for_completion().tunnels() if name.startswith(incomplete)]
    except Error:
        return []


def job_ids(incomplete: str) -> list[tuple[str, str]]:
    """The newest jobs, each with its status."""
    try:
        jobs = for_completion().jobs_page(limit=JOBS_OFFERED).jobs
    except Error:
        return []
    return [(job.id, job.status) for job in jobs if job.id.startswith(incomplete)]


def workflow_names(incomplete: str) -> list[str]:
    """Those that no shell could take for anything else."""
    try:
        names = [each.name for each in for_completion().workflows()]
    except Error:
        return []
    return [name for name in names if name.startswith(incomplete) and re.fullmatch(r"[A-Za-z0-9_-]+", name)]

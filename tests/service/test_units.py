"""The text of units, drop-ins and the agent: what needs no manager to be looked at. tests/system runs them under a real one."""

from __future__ import annotations

import os
import plistlib
import subprocess
from pathlib import Path
from typing import Any

import pytest

from comfytunnel import config, paths
from comfytunnel.folders import writable
from comfytunnel.service import launchd, systemd
from comfytunnel.service.files import shipped
from comfytunnel.service.plan import Done, Plan, holder

ODD = '/home/o\'neill/a b%h$HOME\\n"q"'

# launchd.plist(5): the keys that we use, with their types, and what stands in the template for each Mac.
KEYS: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "Umask": int,
    "Sockets": dict,
    "StandardOutPath": str,
    "StandardErrorPath": str,
}
SOCKET_KEYS: dict[str, type] = {"SockPathName": str, "SockPathMode": int, "SockType": str}


def plan(base: Path, **over: Any) -> Plan:
    return Plan(
        **{
            "name": "comfytunnel",
            "program": (str(base / "bin" / "python"), "-P", "-m", "comfytunnel"),
            "config": base / "config.toml",
            "state_dir": base / "state",
            "socket": base / "state" / "run" / "control.sock",
            "environment": {"COMFYTUNNEL_CONFIG": str(base / "config.toml")},
            **over,
        }
    )


@pytest.fixture
def agent(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = plistlib.loads(launchd.agent(plan(tmp_path), tmp_path / "the.log").encode())
    return found


def test_each_key_of_the_agent_is_one_of_launchds_and_of_its_type(agent: dict[str, Any]) -> None:
    assert {key: type(value) for key, value in agent.items()} == KEYS
    assert {key: type(value) for key, value in agent["Sockets"]["control"].items()} == SOCKET_KEYS
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["ProcessType"] in {"Background", "Standard", "Adaptive", "Interactive"}
    assert all(type(word) is str for word in agent["ProgramArguments"])


def test_the_agent_starts_the_daemon_and_keeps_its_socket_private(
    agent: dict[str, Any], tmp_path: Path
) -> None:
    python = str(tmp_path / "bin" / "python")
    assert agent["ProgramArguments"] == [python, "-P", "-m", "comfytunnel", "daemon"]
    assert agent["Sockets"]["control"]["SockPathMode"] == 0o600
    assert agent["Sockets"]["control"]["SockPathName"] == str(tmp_path / "state" / "run" / "control.sock")
    assert agent["Umask"] == 0o077
    assert agent["EnvironmentVariables"] == {"COMFYTUNNEL_CONFIG": str(tmp_path / "config.toml")}


def test_no_path_of_the_agent_needs_a_shell_and_no_place_is_left_empty(agent: dict[str, Any]) -> None:
    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for item in value.values() for text in texts(item)]
        if isinstance(value, list):
            return [text for item in value for text in texts(item)]
        return [value] if isinstance(value, str) else []

    for text in texts(agent):
        assert "~" not in text
        assert "$" not in text
        assert "{" not in text
    for key in ("StandardOutPath", "StandardErrorPath"):
        assert Path(agent[key]).is_absolute()


def test_a_path_with_braces_or_markup_is_put_in_as_it_is() -> None:
    path = Path("/Users/{label}&<x>/control.sock")
    text = launchd.agent(plan(Path("/Users/u"), socket=path), Path("/l"))
    assert plistlib.loads(text.encode())["Sockets"]["control"]["SockPathName"] == str(path)


def test_a_word_of_a_drop_in_means_itself() -> None:
    """%h, $HOME, quotes and backslashes are letters of a path here."""
    assert systemd.exec_word("/usr/bin/python3") == "/usr/bin/python3"
    assert systemd.exec_word(ODD) == '"/home/o\'neill/a b%%h$$HOME\\\\n\\"q\\""'
    text = systemd.writable_conf(plan(Path("/home/u"), writable=(Path("/mnt/a b%c"),)))
    assert 'ReadWritePaths="-/mnt/a b%%c"' in text


def test_the_socket_of_the_wheel_is_where_the_commands_look_for_it() -> None:
    """No drop-in is needed, unless somebody has moved it."""
    assert systemd.runtime_socket() == paths.socket_path({"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}"})
    assert "ListenStream=%t/comfytunnel/control.sock" in shipped("systemd/comfytunnel.socket")


def test_the_units_name_no_machine_and_wait_for_no_network() -> None:
    for name in ("comfytunnel.service", "comfytunnel.socket", "confined.conf"):
        text = shipped(f"systemd/{name}")
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert not any("/home" in line or "python" in line or "network" in line for line in lines)


def test_a_systemd_that_looks_finds_nothing_wrong(tmp_path: Path) -> None:
    """Without a manager: the files are parsed by systemd itself."""
    for kind in ("service", "socket"):
        (tmp_path / f"ct.{kind}").write_text(shipped(f"systemd/comfytunnel.{kind}"))
    drop_ins = tmp_path / "ct.service.d"
    drop_ins.mkdir()
    odd = tmp_path / "a b%h"
    odd.touch(mode=0o755)
    its = plan(tmp_path, program=(str(odd),), writable=(tmp_path / "x y",))
    (drop_ins / "10.conf").write_text(systemd.program_conf(its))
    (drop_ins / "20.conf").write_text(shipped("systemd/confined.conf"))
    (drop_ins / "30.conf").write_text(systemd.writable_conf(its))
    try:
        done = subprocess.run(
            [
                "systemd-analyze",
                "--user",
                "--recursive-errors=no",
                "--man=no",
                "verify",
                tmp_path / "ct.service",
            ],
            env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except FileNotFoundError:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have it: systemd-analyze")
        pytest.skip("needs systemd-analyze")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_may_be_written_follows_links_and_sockets(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "known").touch()
    (tmp_path / "ssh").mkdir()
    (tmp_path / "ssh" / "known_hosts").symlink_to(tmp_path / "dotfiles" / "known")
    file = tmp_path / "config.toml"
    file.write_text(
        f'[tunnels.a]\nhost = "h"\nknown_hosts = "{tmp_path}/ssh/known_hosts"\nlisten = "unix:{tmp_path}/s/door"\n'
        f'[jobs]\noutput_dir = "{tmp_path}/out"\n'
    )
    found = writable(config.load(file), tmp_path / "state")
    assert found == tuple(tmp_path / name for name in ("state", "out", "ssh", "dotfiles", "s"))


@pytest.mark.parametrize(
    ("told", "environ", "wanted"),
    [
        (Done(0, "no"), {}, 1),
        (Done(0, "yes"), {}, 0),
        (Done(0, "no"), {"WAYLAND_DISPLAY": "wayland-0"}, 0),
        (Done(1, "No such user"), {}, 0),
    ],
)
def test_lingering_is_suggested_where_nobody_sits_at_a_screen(
    told: Done, environ: dict[str, str], wanted: int
) -> None:
    found = systemd.linger_advice(told, environ)
    assert len(found) == wanted
    assert all("loginctl enable-linger" in line for line in found)


def test_a_state_folder_that_nobody_uses_has_no_holder(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    (tmp_path / "daemon.lock").write_text("77\n")
    assert holder(tmp_path) is None, "who held it last is gone"

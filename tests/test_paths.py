"""Where our files lie, and which folders are private enough: real folders, real modes."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from comfytunnel.errors import RefusedError, StateError, UsageError
from comfytunnel.paths import (
    SOCKET_PATH_LIMIT,
    check_socket_path,
    config_path,
    has_service,
    make_private_folder,
    socket_path,
    state_dir,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_variables_override_every_place() -> None:
    environ = {
        "COMFYTUNNEL_CONFIG": "/a/c.toml",
        "COMFYTUNNEL_STATE_DIR": "/b",
        "COMFYTUNNEL_SOCKET": "/c/s",
        "XDG_RUNTIME_DIR": "/run/user/1",
    }
    assert (config_path(environ), state_dir(environ), socket_path(environ)) == (
        Path("/a/c.toml"),
        Path("/b"),
        Path("/c/s"),
    )


def test_a_variable_may_begin_with_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert config_path({"COMFYTUNNEL_CONFIG": "~/c.toml"}) == Path("/home/ada/c.toml")


def test_a_relative_variable_is_taken_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_dir({"COMFYTUNNEL_STATE_DIR": "state"}) == tmp_path / "state"


def test_the_xdg_folders_are_used_and_relative_ones_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    environ = {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}
    assert config_path(environ) == Path("/c/comfytunnel/config.toml")
    assert state_dir(environ) == Path("/s/comfytunnel")
    assert socket_path(environ) == Path("/r/comfytunnel/control.sock")
    assert Path("c") not in config_path({"XDG_CONFIG_HOME": "c"}).parents
    assert config_path({"XDG_CONFIG_HOME": "c"}) == config_path({})
    assert config_path({}).is_relative_to("/home/ada")


def test_without_a_runtime_folder_the_socket_lies_in_the_state_folder() -> None:
    assert socket_path({"XDG_STATE_HOME": "/s"}) == Path("/s/comfytunnel/run/control.sock")
    assert socket_path({"COMFYTUNNEL_STATE_DIR": "/s"}) == Path("/s/run/control.sock")


def test_a_private_folder_is_made_with_its_parents_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = make_private_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert (made, mode(made), mode(made.parent)) == (tmp_path / "a" / "b", 0o700, 0o700)


def test_a_folder_that_exists_is_never_changed(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    assert make_private_folder(there) == there
    assert mode(there) == 0o755


@pytest.mark.parametrize(
    ("bits", "hint"),
    [(0o720, "chmod go-w"), (0o702, "chmod go-w"), (0o1777, "folder of your own: COMFYTUNNEL_SOCKET=")],
)
def test_a_folder_that_others_may_write_is_refused_and_one_meant_for_all_is_left_so(
    tmp_path: Path, bits: int, hint: str
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(bits)
    with pytest.raises(RefusedError, match="Others may write") as caught:
        make_private_folder(there)
    assert hint in caught.value.hint
    assert ("chmod" in caught.value.hint) is not bool(bits & stat.S_ISVTX)
    assert mode(there) == bits


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    os.chown(there, 12345, 12345)
    with pytest.raises(RefusedError, match="uid 12345") as caught:
        make_private_folder(there)
    assert "chmod" not in caught.value.hint


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="not a folder"):
        make_private_folder(tmp_path / "file")
    with pytest.raises(StateError, match="cannot be made"):
        make_private_folder(tmp_path / "file" / "below")


def test_a_dangling_link_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StateError, match="cannot be made"):
        make_private_folder(tmp_path / "link")


def test_the_limit_of_a_socket_path_is_the_kernels(tmp_path: Path) -> None:
    longest = Path("/" + "x" * (SOCKET_PATH_LIMIT - 1))
    check_socket_path(longest)
    with pytest.raises(UsageError, match="bytes") as caught:
        check_socket_path(Path(f"{longest}x"))
    assert "COMFYTUNNEL_SOCKET" in caught.value.hint
    # the kernel's own word: a relative name of that length can be bound, one byte more cannot
    fits = str(tmp_path / "x").ljust(SOCKET_PATH_LIMIT, "x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(fits)
    with socket.socket(socket.AF_UNIX) as server, pytest.raises(OSError):
        server.bind(fits + ("xx" if sys.platform == "linux" else "x"))


def test_a_socket_path_counts_bytes_not_letters() -> None:
    with pytest.raises(UsageError):
        check_socket_path(Path("/" + "ä" * (SOCKET_PATH_LIMIT // 2 + 1)))


def test_the_service_is_there_when_its_unit_lies_where_systemd_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for environ, folder in (
        ({}, ".config"),
        ({}, ".local/share"),
        ({"XDG_CONFIG_HOME": f"{tmp_path}/c"}, "c"),
        ({"XDG_DATA_HOME": f"{tmp_path}/d"}, "d"),
    ):
        assert not has_service(environ)
        unit = tmp_path / folder / "systemd" / "user" / "comfytunnel.service"
        unit.parent.mkdir(parents=True)
        unit.touch()
        assert has_service(environ)
        unit.unlink()

"""The config file: what it means when it is right, and that each mistake in it is named, with its path, all at once."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from comfytunnel.config import (
    Config,
    JobsConfig,
    LogConfig,
    Tcp,
    TunnelConfig,
    Unix,
    WebConfig,
    load,
    parse,
)
from comfytunnel.configfields import SECTIONS, TUNNEL_FIELDS
from comfytunnel.errors import ConfigError, Problem

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
BOTH = (Tcp("127.0.0.1", 18188), Tcp("::1", 18188))


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")


def read(text: str) -> Config:
    return parse(text, Path("/etc/c.toml"))


def tunnel(text: str) -> TunnelConfig:
    return read(f"[tunnels.default]\n{text}").tunnels["default"]


def problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.source == "/etc/c.toml"
    return caught.value.problems


def problem(text: str) -> Problem:
    """Return the one mistake of a tunnel with these lines."""
    [only] = problems(f"[tunnels.default]\n{text}")
    return only


def test_a_host_is_enough_and_the_rest_has_the_defaults_of_the_contract() -> None:
    got = read('[tunnels.default]\nhost = "h"')
    assert got.tunnels == {"default": TunnelConfig(name="default", host="h")}
    only = got.tunnels["default"]
    assert (only.listen, only.remote) == (BOTH, Tcp("localhost", 18188))
    assert (only.ssh_config, only.known_hosts) == (
        Path("/home/ada/.ssh/config"),
        Path("/home/ada/.ssh/known_hosts"),
    )
    assert (only.keepalive_interval, only.hold, only.spares, only.host_key) == (15, 30, 2, "accept-new")
    assert got.jobs == JobsConfig(output_dir=Path("/home/ada/Pictures/comfytunnel"), max_ahead=1)
    assert got.web == WebConfig()
    assert got.log == LogConfig(level="info", format="auto")
    assert got.source == Path("/etc/c.toml")


def test_the_ssh_line_gives_host_port_user_listen_and_remote() -> None:
    got = tunnel('ssh = "ssh -p 13273 root@ssh2.vast.ai -L 18190:localhost:18188"')
    assert (got.host, got.port, got.user) == ("ssh2.vast.ai", 13273, "root")
    assert got.listen == (Tcp("127.0.0.1", 18190), Tcp("::1", 18190))
    assert got.remote == Tcp("localhost", 18188)


def test_the_ssh_line_gives_the_other_options_that_are_supported() -> None:
    got = tunnel(
        'ssh = """ssh -i ~/a -i /b -J me@gate -F none -o StrictHostKeyChecking=yes -o ServerAliveInterval=7'
        ' -o IdentityAgent=~/agent -o UserKnownHostsFile=/k -o HostKeyAlias=box h"""'
    )
    assert got.identity_files == (Path("/home/ada/a"), Path("/b"))
    assert (got.proxy_jump, got.ssh_config, got.host_key, got.keepalive_interval) == (
        "me@gate",
        None,
        "strict",
        7,
    )
    assert (got.agent, got.known_hosts, got.host_key_alias) == ("/home/ada/agent", Path("/k"), "box")


def test_a_proxy_command_in_the_ssh_line_is_kept() -> None:
    assert tunnel("ssh = \"ssh -o 'ProxyCommand=nc %h %p' h\"").proxy_command == "nc %h %p"


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("localhost:1", (Tcp("127.0.0.1", 1), Tcp("::1", 1))),
        ("127.0.0.1:1", (Tcp("127.0.0.1", 1),)),
        ("127.8.8.8:1", (Tcp("127.8.8.8", 1),)),
        ("[::1]:1", (Tcp("::1", 1),)),
        ("unix:~/s", (Unix(Path("/home/ada/s")),)),
    ],
)
def test_listen_is_loopback_in_all_its_forms(text: str, listen: tuple[object, ...]) -> None:
    assert tunnel(f'host = "h"\nlisten = "{text}"').listen == listen


@pytest.mark.parametrize("text", ["0.0.0.0:1", "*:1", "[::]:1", "192.168.1.2:1", "example.org:1", ":1"])
def test_listen_beyond_loopback_is_refused(text: str) -> None:
    found = problem(f'host = "h"\nlisten = "{text}"')
    assert found.path == "tunnels.default.listen"


def test_a_refused_listen_says_why_and_what_to_write() -> None:
    assert problem('host = "h"\nlisten = "0.0.0.0:18188"').hint.endswith("loopback: localhost:18188")
    assert problem('host = "h"\nlisten = "18188"').hint == "Write localhost:18188"
    assert "loopback" in problem('ssh = "ssh -L *:1:a:2 h"').message


def test_listen_on_a_socket_whose_path_is_too_long_is_refused() -> None:
    assert "bytes" in problem(f'host = "h"\nlisten = "unix:/{"x" * 110}"').message


def test_remote_is_a_port_or_a_socket_there() -> None:
    assert tunnel('host = "h"\nremote = "10.0.0.1:99"').remote == Tcp("10.0.0.1", 99)
    assert tunnel('host = "h"\nremote = "unix:/run/comfy.sock"').remote == Unix(Path("/run/comfy.sock"))
    assert tunnel('ssh = "ssh -L 1:/run/comfy.sock h"').remote == Unix(Path("/run/comfy.sock"))


def test_identity_file_is_one_or_a_list() -> None:
    assert tunnel('host = "h"\nidentity_file = "~/k"').identity_files == (Path("/home/ada/k"),)
    assert tunnel('host = "h"\nidentity_file = ["~/k", "/l"]').identity_files == (
        Path("/home/ada/k"),
        Path("/l"),
    )


def test_every_mistake_is_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        """
        nonsense = 1
        [log]
        level = "loud"
        [tunnels.default]
        prot = 1
        host = "-oProxyCommand=x"
        port = "22"
        hold = nan
        spares = true
        allowed_hosts = "x"
        [jobs]
        max_ahead = 99
        [web]
        listen = "unix:/x"
        """
    )
    assert [p.path for p in found] == [
        "nonsense",
        "log.level",
        *(f"tunnels.default.{key}" for key in ("prot", "host", "port", "hold", "spares", "allowed_hosts")),
        "jobs.max_ahead",
        "web.listen",
    ]


def test_an_unknown_key_is_told_the_nearest_name() -> None:
    assert problem('host = "h"\nidentity_files = []').hint == "Did you mean identity_file?"
    assert problems('[tunnel.a]\nhost = "h"')[0].hint == "Did you mean tunnels?"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port = 0", "must be from 1 to 65535 (a port), not 0."),
        ("port = 1.5", "must be a whole number, not 1.5."),
        ('port = "22"', "must be a whole number, not '22'."),
        ("hold = 601", "must be from 0 to 600 seconds, not 601.0."),
        ("keepalive_interval = 0", "must be from 1 to 600 seconds, not 0.0."),
        ("spares = 17", "must be from 0 to 16 channels, not 17."),
        ("allow_other_users = 1", "must be true or false, not 1."),
        ('host_key = "no"', "must be one of accept-new, ask, strict, not 'no'."),
        ("allowed_hosts = [1]", "must be a list of texts, not '1'."),
        ('known_hosts = "here"', "'here' is a relative path."),
        ('user = "a b"', "'a b' cannot be the name of a user."),
        ('allowed_origins = ["null"]', "'null' is not an origin."),
        ('allowed_hosts = ["http://x/"]', "'http://x/' is not a host."),
        ('proxy_jump = "-oProxyCommand=x"', "'-oProxyCommand=x' cannot be the name of a host."),
        ('proxy_command = "a\\nb"', "'a\\nb' must be a text on one line, and not empty."),
    ],
)
def test_a_wrong_value_says_what_is_wrong_with_it(line: str, message: str) -> None:
    host = "" if line.startswith("host =") else 'host = "h"\n'
    found = problem(host + line)
    assert (found.path, found.message) == (f"tunnels.default.{line.split()[0]}", message)


def test_ssh_beside_host_is_an_error_that_says_which() -> None:
    found = problem('ssh = "ssh h"\nhost = "g"\nport = 1')
    assert found.path == "tunnels.default.ssh"
    assert "beside host and port" in found.message


def test_a_key_that_says_the_same_as_the_ssh_line_is_fine() -> None:
    got = tunnel(
        'ssh = "ssh -i ~/k -L 18188:localhost:18188 h"\nlisten = "localhost:18188"\nidentity_file = "~/k"'
    )
    assert got.listen == BOTH


def test_a_key_that_differs_from_the_ssh_line_is_an_error_that_names_both() -> None:
    found = problem('ssh = "ssh -L 8080:localhost:18188 h"\nlisten = "localhost:18188"')
    assert found.path == "tunnels.default.listen"
    assert found.message == "says 'localhost:18188', and the command in ssh says 'localhost:8080'."


def test_two_forwards_in_the_ssh_line_are_an_error() -> None:
    assert "holds 2 forwards" in problem('ssh = "ssh -L 1:a:2 -L 3:a:4 h"').message


def test_an_ssh_line_that_cannot_be_read_is_a_problem_with_its_hint() -> None:
    assert problem('ssh = "ssh -p x h"').message == "-p x: 'x' is not a port."


def test_two_tunnels_cannot_listen_on_the_same_port() -> None:
    found = problems('[tunnels.a]\nhost = "h"\n[tunnels.b]\nhost = "h"\nlisten = "[::1]:18188"')
    assert [(p.path, p.message) for p in found] == [
        ("tunnels.b.listen", "[::1]:18188 is taken by tunnels.a already.")
    ]
    found = problems('[tunnels.a]\nhost = "h"\n[web]\nlisten = "127.0.0.1:18188"')
    assert found[0].path == "web.listen"


def test_a_port_that_nobody_could_know_is_refused() -> None:
    assert problem('host = "h"\nlisten = "127.0.0.1:0"').path == "tunnels.default.listen"


def test_two_ways_in_are_one_too_many() -> None:
    assert problem('host = "h"\nproxy_jump = "g"\nproxy_command = "nc"').path == "tunnels.default.proxy_jump"


@pytest.mark.parametrize("name", ["A", "-a", "a b", "a.b", "ä", "x" * 33, ""])
def test_a_tunnel_has_a_plain_name(name: str) -> None:
    [found] = problems(f'[tunnels."{name}"]\nhost = "h"')
    assert "not a name for a tunnel" in found.message


@pytest.mark.parametrize("text", ["", "[tunnels]", "[jobs]\nmax_ahead = 2"])
def test_a_config_without_a_tunnel_points_to_setup(text: str) -> None:
    [found] = problems(text)
    assert "comfytunnel setup" in found.hint


def test_a_tunnel_without_a_host_is_an_error() -> None:
    assert problem("port = 1").message == "names no host."


@pytest.mark.parametrize("text", ["tunnels = 1", "[tunnels]\na = 1", 'jobs = []\n[tunnels.a]\nhost = "h"'])
def test_a_value_where_a_table_belongs_is_an_error(text: str) -> None:
    assert "must be a table." in [p.message for p in problems(text)]


@pytest.mark.parametrize(
    ("text", "where"), [("a = 1\nb = = 2", "line 2, column 5"), ("a = 1\n[tunnels.x", "line 2, column 11")]
)
def test_broken_toml_is_reported_with_line_and_column(text: str, where: str) -> None:
    [found] = problems(text)
    assert where in found.message


def test_a_missing_file_is_named_and_points_to_setup(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load(tmp_path / "c.toml")
    assert str(tmp_path / "c.toml") in str(caught.value)
    assert "comfytunnel setup 'ssh -p" in caught.value.hint


def test_a_file_that_is_no_text_or_no_file_is_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_a_token_in_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[tunnels.a]\nhost = "h"\n[web]\ntoken = "s3cret"')
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read") as caught:
        load(path)
    assert "chmod 600" in caught.value.hint
    path.chmod(0o600)
    config = load(path)
    assert config.web.token == "s3cret"
    assert "s3cret" not in repr(config)


def test_a_file_that_every_user_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[tunnels.a]\nhost = "h"')
    path.chmod(0o646)
    with pytest.raises(ConfigError, match="every user may write"):
        load(path)


def test_the_web_listens_on_loopback_only_when_asked_to() -> None:
    text = '[tunnels.a]\nhost = "h"\n[web]\n'
    assert read(text).web.listen == ()
    assert read(f'{text}listen = "localhost:8000"').web.listen == (Tcp("127.0.0.1", 8000), Tcp("::1", 8000))
    assert problems(f'{text}listen = "0.0.0.0:8000"')[0].path == "web.listen"


def test_the_example_loads_and_means_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(EXAMPLE.read_text())
    path.chmod(0o600)
    got = load(path)
    expected = TunnelConfig(name="default", host="ssh2.vast.ai", port=13273, user="root")
    assert got == Config(
        tunnels={"default": expected}, jobs=JobsConfig(), web=WebConfig(), log=LogConfig(), source=path
    )


def test_the_example_shows_every_key_there_is_and_no_other() -> None:
    shown: dict[str, set[str]] = {}
    section = ""
    for line in EXAMPLE.read_text().splitlines():
        if match := re.match(r"\[([a-z.]+)\]", line):
            section = match[1]
        elif match := re.match(r"(?:# )?([a-z_]+) = ", line):
            shown.setdefault(section, set()).add(match[1])
    assert shown == {"tunnels.default": set(TUNNEL_FIELDS)} | {n: set(keys) for n, keys in SECTIONS.items()}


def test_every_key_has_a_place_in_the_result_and_the_other_way_round() -> None:
    keys = {"identity_files" if key == "identity_file" else key for key in TUNNEL_FIELDS} - {"ssh"}
    assert keys == {field.name for field in dataclasses.fields(TunnelConfig)} - {"name"}
    for section, struct in (("jobs", JobsConfig), ("web", WebConfig), ("log", LogConfig)):
        assert set(SECTIONS[section]) == {field.name for field in dataclasses.fields(struct)}


def test_the_commented_keys_of_the_example_load_too() -> None:
    text = EXAMPLE.read_text()
    text = re.sub(r"(?m)^ssh = .*\n", "", text)
    text = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text).replace("proxy_command", "# proxy_command")
    got = read(text)
    assert got.tunnels["default"].host_key_alias == "my-box"
    assert len(got.web.listen) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """It could name a program for us to start."""
    path = tmp_path / "config.toml"
    path.write_text('[tunnels.default]\nhost = "h"\n')
    path.chmod(0o644)
    load(path)
    os.chown(path, 65534, -1)
    with pytest.raises(ConfigError, match="another user"):
        load(path)

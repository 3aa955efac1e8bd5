"""`comfytunnel setup`: what it writes, what it says, what it asks, and that it never loses anything. Real files throughout."""

from __future__ import annotations

import asyncio
import stat
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel import config
from comfytunnel.cli import setup, setupfile
from comfytunnel.cli.setup import HostKeyLook, SetupResult, run_setup
from comfytunnel.cli.setupplan import new_text, plan, render_line
from comfytunnel.config import Tcp, TunnelConfig
from comfytunnel.configfields import TUNNEL_FIELDS
from comfytunnel.errors import ConfigError, RefusedError, StateError, UsageError
from comfytunnel.sshline import parse

VAST = "ssh -p 13273 root@ssh2.vast.ai -L 8080:localhost:8080"
ISSUE = "ssh -p 13273 -o ServerAliveInterval=15 root@ssh2.vast.ai -N -L 18188:localhost:18188"
NEW_KEY = HostKeyLook("SHA256:abc", "ssh-ed25519", "new")


class Person:
    """Somebody at a terminal: hears everything, answers every question the same, and has a far side and a daemon."""

    def __init__(self, path: Path, *, answer: bool | None = None, key: HostKeyLook = NEW_KEY) -> None:
        self.path, self.answer, self.key = path, answer, key
        self.heard: list[str] = []
        self.asked: list[str] = []
        self.looked: list[TunnelConfig] = []
        self.daemon_reads: str | None = str(path)

    def _ask(self, question: str) -> bool:
        self.asked.append(question)
        assert self.answer is not None
        return self.answer

    async def _look(self, tunnel: TunnelConfig) -> HostKeyLook:
        self.looked.append(tunnel)
        return self.key

    def setup(self, line: str, **options: Any) -> SetupResult:
        ask: Callable[[str], bool] | None = None if self.answer is None else self._ask
        look = options.pop("look", self._look)
        return run_setup(
            line,
            config_path=self.path,
            ask=ask,
            say=self.heard.append,
            look=look,
            tell_daemon=lambda _path: self.daemon_reads,
            **options,
        )

    @property
    def text(self) -> str:
        return "\n".join(self.heard)

    @property
    def tunnel(self) -> TunnelConfig:
        [only] = config.load(self.path).tunnels.values()
        return only


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "config" / "config.toml"


def existing(path: Path, text: str) -> Path:
    path.parent.mkdir(mode=0o700)
    path.write_text(text)
    path.chmod(0o600)
    return path


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob("*.bak-*"))


def test_a_new_config_is_written_private_and_loads(path: Path) -> None:
    person = Person(path)
    result = person.setup(ISSUE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert person.tunnel == TunnelConfig(name="default", host="ssh2.vast.ai", port=13273, user="root")
    assert (result.changed, result.tunnel, result.backup, result.taken_up) == (True, "default", None, True)
    assert (result.left_out, result.notes) == ((), ())
    assert [p.name for p in path.parent.iterdir()] == ["config.toml"]


def test_the_line_in_the_new_config_is_one_that_the_person_can_paste_over(path: Path) -> None:
    Person(path).setup(f"{ISSUE} -i '~/.ssh/my key'")
    line = (
        "ssh -i '~/.ssh/my key' -p 13273 -o ServerAliveInterval=15 root@ssh2.vast.ai -L 18188:localhost:18188"
    )
    assert f'ssh = "{line}"' in path.read_text()


@pytest.mark.parametrize(("port", "what"), [(8080, "Vast.ai's console"), (8188, "login page")])
def test_a_forward_that_is_not_comfyuis_is_replaced_and_explained(path: Path, port: int, what: str) -> None:
    person = Person(path)
    person.setup(f"ssh -p 13273 root@ssh2.vast.ai -L {port}:localhost:{port}")
    assert person.tunnel.remote == Tcp("localhost", 18188)
    assert person.tunnel.listen[0] == Tcp("127.0.0.1", 18188)
    assert what in person.text
    assert "ComfyUI itself listens on 18188" in person.text
    assert "--keep-forward" in person.text


def test_a_forward_that_is_not_comfyuis_is_kept_if_asked_for(path: Path) -> None:
    person = Person(path)
    person.setup(VAST, keep_forward=True)
    assert (person.tunnel.remote, person.tunnel.listen[0].port) == (Tcp("localhost", 8080), 8080)  # type: ignore[union-attr]  # a port, as the line before says
    assert "ComfyUI itself" not in person.text


def test_without_a_forward_the_default_is_used(path: Path) -> None:
    person = Person(path)
    person.setup("ssh root@h")
    assert (person.tunnel.listen[0], person.tunnel.remote) == (
        Tcp("127.0.0.1", 18188),
        Tcp("localhost", 18188),
    )


def test_of_several_forwards_the_one_to_comfyui_is_used_and_the_others_named(path: Path) -> None:
    person = Person(path)
    result = person.setup("ssh h -L 8080:localhost:8080 -L 7000:localhost:7000 -L 9000:localhost:18188")
    assert person.tunnel.remote == Tcp("localhost", 18188)
    assert person.tunnel.listen[0] == Tcp("127.0.0.1", 9000)
    assert [item.text for item in result.left_out] == ["-L 8080:localhost:8080", "-L 7000:localhost:7000"]


def test_a_forward_open_to_the_network_is_bound_to_loopback_and_that_is_said(path: Path) -> None:
    person = Person(path)
    person.setup("ssh h -L '*:18190:localhost:18188'")
    assert person.tunnel.listen[0] == Tcp("127.0.0.1", 18190)
    assert "bound to localhost instead" in person.text


def test_listen_and_remote_can_be_said_on_their_own(path: Path) -> None:
    person = Person(path)
    person.setup(VAST, listen="[::1]:5", remote="localhost:6")
    assert (person.tunnel.listen, person.tunnel.remote) == ((Tcp("::1", 5),), Tcp("localhost", 6))
    with pytest.raises(UsageError, match="loopback"):
        person.setup(VAST, listen="0.0.0.0:5")


def test_what_is_left_out_is_said_by_name(path: Path) -> None:
    person = Person(path)
    person.setup("ssh -A -D 1080 -o StrictHostKeyChecking=no -o ServerAliveInterval=9999 h uptime")
    for part in ("-A: agent", "-D 1080: dynamic", "StrictHostKeyChecking=no: it would", "uptime: no command"):
        assert f"Left out  {part}" in person.text or f"Left out  -o {part}" in person.text
    assert "keepalive_interval 9999: must be from 1 to 600 seconds" in person.text


def test_a_line_that_cannot_be_read_writes_nothing(path: Path) -> None:
    with pytest.raises(UsageError):
        Person(path).setup("ssh -p x h")
    assert not path.parent.exists()


OLD = """\
# my config
[jobs]  # about jobs
max_ahead = 3

[tunnels.comfy]  # the one
ssh = "ssh -p 1 -i ~/.ssh/vast root@ssh1.vast.ai -L 18190:localhost:18188"  # from the console
hold = 60
allowed_hosts = ["box.lan"]

# the page
[web]
token = "s3cret"
"""


def test_a_new_instance_changes_one_line_and_keeps_all_the_rest(path: Path) -> None:
    person = Person(existing(path, OLD), answer=True)
    result = person.setup(VAST)
    new = "ssh -i ~/.ssh/vast -p 13273 root@ssh2.vast.ai -L 18190:localhost:18188"
    old = "ssh -p 1 -i ~/.ssh/vast root@ssh1.vast.ai -L 18190:localhost:18188"
    assert path.read_text() == OLD.replace(old, new)
    assert (result.tunnel, result.changed) == ("comfy", True)


def test_a_tunnel_with_host_and_port_keeps_that_form_and_its_comments(path: Path) -> None:
    old = '[tunnels.default]\nhost = "a"  # here\nuser = "me"\nspares = 4\n\n# jobs\n[jobs]\nmax_ahead = 2\n'
    Person(existing(path, old), answer=True).setup(VAST)
    new = old.replace('"a"', '"ssh2.vast.ai"').replace('"me"', '"root"')
    assert path.read_text() == new.replace("spares = 4\n", "spares = 4\nport = 13273\n")


def test_what_belonged_to_the_old_host_goes_with_it(path: Path) -> None:
    person = Person(
        existing(path, '[tunnels.a]\nhost = "a"\nport = 1\nuser = "u"\nhost_key_alias = "x"\n'), answer=True
    )
    person.setup("ssh b")
    assert person.tunnel == TunnelConfig(name="a", host="b")


def test_a_key_of_the_file_that_the_line_says_anew_is_changed_where_it_stands(path: Path) -> None:
    person = Person(
        existing(path, '[tunnels.a]\nssh = "ssh a"\nidentity_file = "/k"\nlisten = "localhost:5"\n'),
        answer=True,
    )
    person.setup("ssh -i /new b -L 6:localhost:7")
    assert person.tunnel.identity_files == (Path("/new"),)
    assert (person.tunnel.listen[0], person.tunnel.remote) == (Tcp("127.0.0.1", 6), Tcp("localhost", 7))
    assert 'ssh = "ssh b"' in path.read_text()


def test_the_difference_is_shown_before_it_is_asked_and_hides_the_token(path: Path) -> None:
    person = Person(existing(path, OLD), answer=True)
    result = person.setup(VAST)
    assert len(person.asked) == 1
    assert '-ssh = "ssh -p 1 ' in person.text
    assert '+ssh = "ssh -i ~/.ssh/vast -p 13273 ' in person.text
    assert result.diff in person.heard
    assert "s3cret" not in setup._diff("", OLD, path)
    assert 'token = "s3cret"' in path.read_text()


def test_no_is_respected(path: Path) -> None:
    person = Person(existing(path, OLD), answer=False)
    result = person.setup(VAST)
    assert (path.read_text(), result.changed, backups(path)) == (OLD, False, [])
    assert person.heard[-1] == "Nothing was written."


def test_without_a_terminal_an_existing_config_needs_yes(path: Path) -> None:
    person = Person(existing(path, OLD))
    with pytest.raises(UsageError, match="no terminal") as caught:
        person.setup(VAST)
    assert "--yes" in caught.value.hint
    assert (path.read_text(), backups(path), person.looked) == (OLD, [], [])
    assert person.setup(VAST, yes=True).changed


def test_the_backup_is_what_was_there_private_and_never_overwritten(path: Path) -> None:
    result = Person(existing(path, OLD)).setup(VAST, yes=True)
    assert result.backup is not None
    assert result.backup.read_text() == OLD
    assert stat.S_IMODE(result.backup.stat().st_mode) == 0o600
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    made = [setupfile._backup(path, text, now) for text in "abc"]
    assert [p.name for p in made] == [f"config.toml.bak-20260102-030405{end}" for end in ("", "-2", "-3")]
    assert [p.read_text() for p in made] == ["a", "b", "c"]


def test_a_link_stays_a_link_and_its_target_is_written(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "dotfiles.toml"
    target.write_text(OLD)
    path.parent.mkdir(mode=0o700)
    path.symlink_to(target)
    Person(path).setup(VAST, yes=True)
    assert path.is_symlink()
    assert "13273" in target.read_text()


def test_the_same_again_is_nothing_to_do(path: Path) -> None:
    Person(path).setup(ISSUE)
    before = path.read_text()
    person = Person(path)
    result = person.setup(ISSUE)
    assert (path.read_text(), result.changed, backups(path)) == (before, False, [])
    assert "Nothing to do" in person.text
    assert result.host_key == NEW_KEY
    assert "SHA256:abc" in person.text  # the key may be another one although the line is the same


def test_the_same_in_another_form_is_nothing_to_do(path: Path) -> None:
    old = '[tunnels.a]\nhost = "ssh2.vast.ai"\nport = 13273\nuser = "root"\n'
    assert not Person(existing(path, old)).setup(ISSUE).changed
    assert path.read_text() == old


TWO = '[tunnels.a]\nssh = "ssh a"\nlisten = "localhost:1"\n\n[tunnels.b]\nssh = "ssh b"\nlisten = "localhost:2"\n'


def test_of_several_tunnels_one_must_be_named(path: Path) -> None:
    person = Person(existing(path, TWO))
    with pytest.raises(UsageError, match="several tunnels: a, b"):
        person.setup(VAST, yes=True)
    person.setup(VAST, name="b", yes=True)
    got = config.load(path).tunnels
    assert (got["a"].host, got["b"].host, got["b"].listen[0]) == ("a", "ssh2.vast.ai", Tcp("127.0.0.1", 2))


def test_a_new_name_adds_a_tunnel_and_leaves_the_others(path: Path) -> None:
    Person(existing(path, TWO)).setup(VAST, name="c", yes=True)
    assert path.read_text().startswith(TWO)
    assert set(config.load(path).tunnels) == {"a", "b", "c"}


def test_a_result_that_would_not_be_a_config_is_not_written(path: Path) -> None:
    person = Person(existing(path, '[tunnels.a]\nssh = "ssh a"\n'))
    with pytest.raises(ConfigError, match=r"taken by tunnels\.a"):
        person.setup(VAST, name="b", yes=True)
    with pytest.raises(UsageError, match="not a name"):
        person.setup(VAST, name="b]\n[jobs", listen="localhost:3", yes=True)
    assert path.read_text() == '[tunnels.a]\nssh = "ssh a"\n'


@pytest.mark.parametrize("old", ["", "# only words\n", "[jobs]\nmax_ahead = 3\n", "[tunnels]\n"])
def test_a_config_without_a_tunnel_gets_one_and_keeps_the_rest(path: Path, old: str) -> None:
    Person(existing(path, old)).setup(VAST, yes=True)
    assert path.read_text().startswith(old)
    assert set(config.load(path).tunnels) == {"default"}


@pytest.mark.parametrize("broken", ["= nonsense", '[tunnels.a]\nhost = "a"\nprot = 1\n'])
def test_a_broken_config_is_explained_and_never_destroyed(path: Path, broken: str) -> None:
    existing(path, broken)
    for person in (Person(path), Person(path, answer=False)):
        with pytest.raises(UsageError, match="Nothing was written"):
            person.setup(VAST)
        assert "cannot be used as it is" in person.text
        assert "A new file would replace it" in person.text
        assert (path.read_text(), backups(path)) == (broken, [])
    agreed = Person(path, answer=True)
    result = agreed.setup(VAST)
    assert result.backup is not None
    assert result.backup.read_text() == broken
    assert f"the broken file that it replaces is in {result.backup}." in agreed.text
    assert config.load(path).tunnels["default"].host == "ssh2.vast.ai"


PROXY = "ssh -o 'ProxyCommand=nc -X 5 %h %p' root@h"


def test_a_proxy_command_is_shown_and_asked_for(path: Path) -> None:
    person = Person(path, answer=True)
    person.setup(PROXY)
    assert person.asked == ["Keep this ProxyCommand?"]
    assert "nc -X 5 %h %p" in person.text
    assert person.tunnel.proxy_command == "nc -X 5 %h %p"


def test_a_proxy_command_without_consent_is_left_out_and_named(path: Path) -> None:
    for person in (Person(path.with_name("a.toml")), Person(path.with_name("b.toml"), answer=False)):
        result = person.setup(PROXY)
        assert person.tunnel.proxy_command is None
        assert [item.text for item in result.left_out] == ["ProxyCommand nc -X 5 %h %p"]
        assert person.looked[0].proxy_command is None


def test_the_old_way_in_stays_when_a_new_one_is_refused(path: Path) -> None:
    class Torn(Person):
        def _ask(self, question: str) -> bool:
            return "ProxyCommand" not in question

    person = Torn(existing(path, '[tunnels.a]\nhost = "a"\nproxy_jump = "gate"\n'), answer=True)
    person.setup(PROXY)
    assert (person.tunnel.proxy_jump, person.tunnel.proxy_command) == ("gate", None)


def test_yes_is_consent_to_a_proxy_command_and_one_that_is_there_is_not_asked_for_again(path: Path) -> None:
    Person(path).setup(PROXY, yes=True)
    person = Person(path, answer=True)
    person.setup(f"{PROXY} -p 5")
    assert person.asked == [f"Write this to {path}?"]
    assert person.tunnel.proxy_command == "nc -X 5 %h %p"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (NEW_KEY, "ssh-ed25519 SHA256:abc (first use"),
        (HostKeyLook("SHA256:abc", "ssh-ed25519", "known"), "SHA256:abc (known)"),
        (HostKeyLook("SHA256:abc", "ssh-ed25519", "changed"), "is NOT the one in"),
        (HostKeyLook("SHA256:abc", "ssh-ed25519", "changed"), "`comfytunnel trust default`"),
        (
            HostKeyLook("", "", "unreachable", "Refused\x1b[2J.", True),
            "seen, refused\\x1b[2J. The instance may",
        ),
        (
            HostKeyLook("", "", "unreachable", "[Errno -2] Name or service not known"),
            "seen, name or service not known.",
        ),
        (
            HostKeyLook("SHA256:abc", "ssh-ed25519", "changed", "It is marked as revoked."),
            "  It is marked as",
        ),
    ],
)
def test_the_host_key_is_shown_and_never_stops_the_setup(path: Path, key: HostKeyLook, words: str) -> None:
    person = Person(path, key=key)
    assert person.setup(VAST).host_key == key
    assert words in person.text
    assert ("still be starting" in person.text) is key.may_be_starting
    assert "\x1b" not in person.text
    assert person.tunnel.host == "ssh2.vast.ai"


def test_a_host_that_never_answers_is_given_up_and_the_config_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_tunnel: TunnelConfig) -> HostKeyLook:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(setup, "LOOK_SECONDS", 0.05)
    person = Person(path)
    result = person.setup(VAST, look=never)
    assert result.host_key is not None
    assert (result.host_key.status, result.changed) == ("unreachable", True)


def test_it_says_whether_a_daemon_took_it_up(path: Path) -> None:
    person = Person(path)
    person.setup(VAST)
    assert person.heard[-1] == "The running daemon has taken it up."
    person.daemon_reads = None
    person.setup("ssh other", yes=True)
    assert "comfytunnel daemon" in person.heard[-1]


def test_a_daemon_that_reads_another_file_has_not_taken_it_up(path: Path) -> None:
    person = Person(path)
    person.daemon_reads = "/else where/c.toml"
    assert person.setup(VAST).taken_up is False
    assert "reads another file, /else where/c.toml" in person.text
    assert "COMFYTUNNEL_CONFIG='/else where/c.toml'" in person.heard[-1]


def test_json_says_nothing_asks_nothing_and_returns_it_all(path: Path) -> None:
    person = Person(path, answer=True)
    got = person.setup(f"{VAST} -A", json=True).as_json()
    assert (person.heard, person.asked) == ([], [])
    assert got["host_key"] == {
        "status": "new",
        "algorithm": "ssh-ed25519",
        "fingerprint": "SHA256:abc",
        "detail": "",
    }
    assert (got["config"], got["changed"], got["taken_up"]) == (str(path), True, True)
    assert got["left_out"][0] == {
        "text": "-A",
        "why": "agent forwarding is never done, the instance is untrusted",
    }
    with pytest.raises(UsageError, match="--yes"):
        person.setup("ssh other", json=True)


def test_a_folder_that_others_may_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    with pytest.raises(RefusedError):
        Person(path).setup(VAST)
    assert list(path.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_an_error_that_leaves_nothing_behind(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.symlink_to(path.parent / "missing" / "config.toml")
    with pytest.raises(StateError, match="cannot be written"):
        Person(path).setup(VAST)
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(StateError, match="cannot be read"):
        Person(path.parent).setup(VAST)


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(path: Path) -> None:
    person = Person(existing(path, OLD))

    async def meddle(_tunnel: TunnelConfig) -> HostKeyLook:
        path.write_text(OLD + "# more\n")
        return NEW_KEY

    with pytest.raises(UsageError, match="changed by another program"):
        person.setup(VAST, yes=True, look=meddle)
    assert path.read_text() == OLD + "# more\n"


def test_a_relative_key_is_meant_from_where_the_person_stands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    person = Person(path)
    person.setup("ssh -i key h")
    assert person.tunnel.identity_files == (tmp_path / "key",)


def test_a_key_that_does_not_exist_is_a_note_and_no_error(path: Path, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    result = Person(path).setup(f"ssh -i {tmp_path}/there -i /nonexist/key h")
    assert (result.changed, result.notes) == (True, ("The key /nonexist/key does not exist (yet).",))


LINES = st.lists(
    st.sampled_from(
        [
            *("-p 22", "-l me", "-i ~/k", "-i '/a b'", "-J g", "-F none", "-F ~/c", "-L 1:a:2", "-L /s:/t"),
            *(
                "-o StrictHostKeyChecking=yes",
                "-o UserKnownHostsFile=/k",
                "-o HostKeyAlias=x",
                "-L [::1]:1:[::2]:3",
            ),
            *("-o IdentityAgent=none", "-o ServerAliveInterval=20", "-o 'ProxyCommand=sh -c \"$x\" %h'"),
        ]
    ),
    unique=True,
).map(lambda words: f"ssh {' '.join(words)} host")


OLD_TABLES = st.sampled_from(
    [
        None,
        '[tunnels.a]\nssh = "ssh -i /z -p 7 q -L 3:b:4"\nhold = 5\n',
        '[tunnels.a]\nssh = "ssh -p 7 q"\nlisten = "localhost:9"\nhold = 5\n',
        '[tunnels.a]\nssh = "ssh q"\nhost_key = "ask"\nhold = 5',
        '[tunnels.a]\nhost = "q"\nproxy_jump = "g"\nhold = 5\n[log]\n',
    ]
)


@given(LINES, OLD_TABLES)
def test_whatever_is_written_reads_back_as_planned(line: str, old: str | None) -> None:
    before = tomllib.loads(old)["tunnels"]["a"] if old else None
    made = plan(parse(line), before, folder=Path("/w"))
    written = config.parse(new_text(old, "a", made.values), Path("/c")).tunnels["a"]
    values = {key: TUNNEL_FIELDS[key](value) for key, value in made.values.items()}
    values["identity_files"] = values.pop("identity_file", ())
    assert {key: getattr(written, key) for key in values} == values
    assert (written.host, written.hold) == ("host", 5 if old else 30)


def test_a_rendered_line_can_be_pasted_into_a_shell() -> None:
    values = {"host": "h", "proxy_command": 'sh -c "$x"', "identity_file": "~/k"}
    assert render_line(values) == "ssh -i ~/k -o 'ProxyCommand=sh -c \"$x\"' h"

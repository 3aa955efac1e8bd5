"""ssh command lines as people have them: what is kept, what is left out by name, what cannot be understood."""

from __future__ import annotations

import shlex
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.errors import UsageError
from comfytunnel.sshline import MAX_LINE, LeftOut, SshLine, parse
from comfytunnel.sshparts import Forward

COMFY = Forward(None, 18188, None, "localhost", 18188, None)


def left(line: str) -> list[str]:
    return [item.text for item in parse(line).left_out]


def why(line: str) -> str:
    [only] = parse(line).left_out
    return only.why


@pytest.mark.parametrize(
    "line",
    [
        "ssh -p 13273 -o ServerAliveInterval=15 root@ssh2.vast.ai -N -L 18188:localhost:18188",
        "$ ssh -p13273 -oServerAliveInterval=15 -NTL 18188:localhost:18188 root@ssh2.vast.ai",
        "me@box:~$ ssh -N -o 'serveraliveinterval 15' -l root -L18188:localhost:18188 -p 13273 ssh2.vast.ai",
        "/usr/bin/ssh -oPort=13273 -oUser=root -o 'LocalForward=18188 localhost:18188' -oServerAliveInterval=15s -- ssh2.vast.ai",
        "ssh -L 18188:localhost:18188 ssh://root@ssh2.vast.ai:13273/ -o SERVERALIVEINTERVAL=15",
        "ssh \\\n  -p 13273 \\\r\n root@ssh2.vast.ai -o 'ServerAliveInterval = 15' -L 18188:localhost:18188 &",
        "  501  ssh root@ssh2.vast.ai -p 13273 -o ServerAliveInterval=15 -L 18188:localhost:18188",
        ": 1700000000:0;ssh root@ssh2.vast.ai -p 13273 -o ServerAliveInterval=15 -L 18188:localhost:18188",
        "- cmd: nohup ssh root@ssh2.vast.ai -p 13273 -oServerAliveInterval=15 -L '18188:localhost:18188'",
        "ssh\N{NO-BREAK SPACE}root@ssh2.vast.ai -p 13273 -o ServerAliveInterval=15 -L 18188:[localhost]:18188",
    ],
)
def test_one_tunnel_in_the_many_ways_that_people_write_it(line: str) -> None:
    assert parse(line) == SshLine(
        "ssh2.vast.ai", port=13273, user="root", forwards=(COMFY,), keepalive_interval=15
    )


def test_autossh_is_read_too_and_its_monitor_named() -> None:
    got = parse("AUTOSSH_GATETIME=0 autossh -M 0 -fNL 18188:localhost:18188 root@h")
    assert (got.host, got.user, got.forwards) == ("h", "root", (COMFY,))
    assert [item.text for item in got.left_out] == ["AUTOSSH_GATETIME=0", "-M 0", "-f"]


def test_the_capital_m_of_ssh_takes_no_argument() -> None:
    assert parse("ssh -M h").host == "h"


def test_a_bare_url_is_enough() -> None:
    got = parse("ssh://root@ssh2.vast.ai:13273")
    assert (got.host, got.port, got.user) == ("ssh2.vast.ai", 13273, "root")


@pytest.mark.parametrize(
    ("spec", "forward"),
    [
        ("1:h:2", Forward(None, 1, None, "h", 2, None)),
        ("127.0.0.1:1:h:2", Forward("127.0.0.1", 1, None, "h", 2, None)),
        ("[::1]:1:h:2", Forward("::1", 1, None, "h", 2, None)),
        ("*:1:h:2", Forward("*", 1, None, "h", 2, None)),
        (":1:h:2", Forward("*", 1, None, "h", 2, None)),
        ("1:[fe80::1]:2", Forward(None, 1, None, "fe80::1", 2, None)),
        ("1:/run/s", Forward(None, 1, None, None, None, "/run/s")),
        (":1:/run/s", Forward("*", 1, None, None, None, "/run/s")),
        ("[::1]:1:/run/s", Forward("::1", 1, None, None, None, "/run/s")),
        ("/here:h:2", Forward(None, None, "/here", "h", 2, None)),
        ("/here:/there", Forward(None, None, "/here", None, None, "/there")),
    ],
)
def test_every_form_of_a_forward(spec: str, forward: Forward) -> None:
    assert parse(f"ssh -L {spec} host").forwards == (forward,)
    assert parse(f"ssh -L {forward} host").forwards == (forward,)


def test_forwards_and_keys_may_be_repeated_and_keep_their_order() -> None:
    got = parse("ssh -L 2:a:2 -L 1:a:1 -L 2:a:2 -i ~/b -i $HOME/a -o 'IdentityFile \"/c d\"' h")
    assert [str(f) for f in got.forwards] == ["2:a:2", "1:a:1"]
    assert got.identity_files == ("~/b", "~/a", "/c d")


def test_the_options_that_are_supported() -> None:
    got = parse(
        "ssh -J u@g:22,[::1]:23 -F ~/cfg -o IdentityAgent=~/a -o 'UserKnownHostsFile ~/k ~/l' -o HostKeyAlias=box h"
    )
    assert got == SshLine(
        "h",
        proxy_jump="u@g:22,[::1]:23",
        config_file="~/cfg",
        identity_agent="~/a",
        known_hosts="~/k",
        host_key_alias="box",
        left_out=(LeftOut("~/l", "one known_hosts file is used, the first"),),
    )


def test_a_proxy_command_is_kept_as_it_stands() -> None:
    line = "ssh -o ProxyCommand='nc -X 5 %h %p | tee \"$X\"; true' h"
    assert parse(line).proxy_command == 'nc -X 5 %h %p | tee "$X"; true'


def test_of_two_ways_in_the_first_wins_as_in_ssh() -> None:
    got = parse("ssh -J gate -o ProxyCommand=nc h")
    assert (got.proxy_jump, got.proxy_command) == ("gate", None)
    assert [item.text for item in got.left_out] == ["-o ProxyCommand=nc"]


def test_of_two_values_the_first_wins_as_in_ssh_and_the_second_is_named() -> None:
    got = parse("ssh -p 1 -p 2 -l a b@h")
    assert (got.port, got.user) == (1, "a")
    assert [item.text for item in got.left_out] == ["-p 2", "b@h"]


def test_the_host_name_option_is_the_real_host() -> None:
    got = parse("ssh -o HostName=%h.example.org box")
    assert got.host == "box.example.org"
    assert [item.text for item in got.left_out] == ["box"]


@pytest.mark.parametrize(
    ("value", "policy"), [("yes", "strict"), ("ask", "ask"), ("accept-new", "accept-new"), ("YES", "strict")]
)
def test_strict_host_key_checking_becomes_a_policy(value: str, policy: str) -> None:
    assert parse(f"ssh -o StrictHostKeyChecking={value} h").host_key == policy


@pytest.mark.parametrize(
    "option",
    ["StrictHostKeyChecking=no", "stricthostkeychecking off", "UserKnownHostsFile=/dev/null"],
)
def test_nothing_switches_the_verification_of_the_host_key_off(option: str) -> None:
    got = parse(f"ssh -o '{option}' h")
    assert (got.host_key, got.known_hosts) == (None, None)
    assert "switch the verification of the host key off" in got.left_out[0].why


@pytest.mark.parametrize(("value", "seconds"), [("15", 15), ("1m", 60), ("1m30s", 90), ("2H", 7200)])
def test_a_keepalive_may_have_a_unit(value: str, seconds: float) -> None:
    assert parse(f"ssh -o ServerAliveInterval={value} h").keepalive_interval == seconds


def test_a_keepalive_of_zero_is_left_out() -> None:
    assert why("ssh -o ServerAliveInterval=0 h") == "keepalives are always sent"


def test_each_thing_without_use_is_named_with_a_reason() -> None:
    line = "ssh -AC4fq -D 1080 -R 1:a:2 -o ConnectTimeout=5 -o Frobnicate=1 h nvidia-smi -l 1"
    assert left(line) == [
        *("-A", "-C", "-4", "-f", "-q", "-D 1080", "-R 1:a:2"),
        *("-o ConnectTimeout=5", "-o Frobnicate=1", "nvidia-smi -l 1"),
    ]
    assert why("ssh -A h") == "agent forwarding is never done, the instance is untrusted"
    assert why("ssh -D 1080 h") == "dynamic forwards are not offered"
    assert why("ssh -o Frobnicate=1 h") == "this option is not supported"
    assert all(item.why for item in parse(line).left_out)


def test_what_is_always_so_goes_without_saying() -> None:
    assert left("ssh -NTnax -o BatchMode=yes -o ForwardAgent=no h") == []


@pytest.mark.parametrize("letter", "bceimpwBDEFIJLOPQRSWlo")
def test_the_letters_that_take_an_argument_are_those_of_ssh(letter: str) -> None:
    with pytest.raises(UsageError, match=f"-{letter} needs a value"):
        parse(f"ssh h -{letter}")


@pytest.mark.parametrize("letter", "1246afgknqstvxyACGKMNTVXY")
def test_the_letters_that_take_no_argument_are_those_of_ssh(letter: str) -> None:
    assert parse(f"ssh -{letter} h").host == "h"


def test_what_stands_around_ssh_is_named() -> None:
    assert left("sudo ssh h && echo done") == ["sudo", "&& echo done"]
    assert left("cd x; ssh h") == ["cd", "x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "not an ssh command line"),
        ("scp a b:", "not an ssh command line"),
        ("ssh", "names no host"),
        ("ssh -p 22", "names no host"),
        ("ssh -p x h", "'x' is not a port"),
        ("ssh -p 0 h", "'0' is not a port"),
        ("ssh -p 65536 h", "'65536' is not a port"),
        ("ssh -p \N{SUPERSCRIPT TWO} h", "is not a port"),
        ("ssh ssh://h:x", "'x' is not a port"),
        ("ssh root@a root@b", "two hosts"),
        ("ssh root@h:13273", "cannot be the name of a host"),
        ("ssh 'a", "cannot be split"),
        ("ssh h -Z", "no option -Z"),
        ("ssh h -L 8080", "not a forward"),
        ("ssh h -L 8080:localhost", "not a forward"),
        ("ssh h -L x:localhost:1", "'x' is not a port"),
        ("ssh h -L 1:-x:1", "cannot be the name of a host"),
        ("ssh h -o ServerAliveInterval=soon", "not a time"),
        ("ssh h -o StrictHostKeyChecking=maybe", "accept-new"),
        ("ssh h -o x", "not key=value"),
        ("ssh h -o Port=", "needs a value"),
        ("sshpass -p secret ssh h", "password"),
        ("ssh " + "h" * MAX_LINE, "longer than"),
        ("ssh \N{EN DASH}p 13273 root@h", "typographic dash"),
        ("ssh root@h \N{EM DASH}L 18188:localhost:18188", "typographic dash"),
        ("ssh -o \u201cPort=5\u201d h", "typographic quotes"),
        ("\u2018ssh root@h\u2019", "typographic quotes"),
        ("ssh root@h\N{EN DASH}x", "cannot be the name of a host"),
        ("ssh root@" + "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 64, "cannot be the name of a host"),
        ("ssh root:secret@h", "'root' is followed by a colon"),
        ("ssh ssh://root:secret@h:22", "'root' is followed by a colon"),
        ("ssh -l root:secret h", "'root' is followed by a colon"),
        ("ssh -J root:secret@g h", "'root' is followed by a colon"),
    ],
)
def test_what_cannot_be_understood_is_a_usage_error_with_a_hint(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse(line)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_name_beyond_ascii_is_a_host_if_it_can_be_looked_up() -> None:
    assert parse("ssh root@b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example").host.startswith("b")


@pytest.mark.parametrize(
    "line",
    [
        "ssh -- -oProxyCommand=x",
        "ssh -- -x@h",
        "ssh -l -x h",
        "ssh ssh://-x@h",
        "ssh ssh://%2Dx@h",
        "ssh 'a b'",
        "ssh 'a b@h'",
        "ssh ssh://a%0Ab@h",
        "ssh h\x1b[2J",
        "ssh 'h\n'",
        "ssh h\N{ZERO WIDTH SPACE}",
        "ssh '$(x)'",
        "ssh -o HostName=-x h",
        "ssh '*'",
        "ssh '!a'",
        "ssh a,b",
        "ssh -o 'HostKeyAlias=*' h",
        "ssh -J -oProxyCommand=x h",
        "ssh -J a,-x@b h",
    ],
)
def test_a_name_that_could_be_an_option_or_a_trick_is_refused(line: str) -> None:
    with pytest.raises(UsageError):
        parse(line)


@given(st.one_of(st.text(), st.text(alphabet="ssh -opLJiF[]:@/.=\"'\\%$&\n1a,*")))
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for line in (text, f"ssh {text}", f"ssh h {text}", f"ssh -o {text} h", f"ssh -L {text} h"):
        try:
            got = parse(line)
        except UsageError as error:
            assert error.message  # noqa: PT017  # either way is right, so raises() cannot say it
        else:
            assert got.host
            assert not got.host.startswith("-")


NAMES = st.text(string.ascii_lowercase + string.digits + ".-_", min_size=1, max_size=20).filter(
    lambda name: not name.startswith("-") and name not in {"ssh", "autossh"}
)
PORTS = st.integers(1, 65_535)
HOSTS = NAMES | st.ip_addresses().map(str)
SOCKETS = NAMES.map(lambda name: f"/run/{name}")
PATHS = st.text(string.ascii_letters + " '\"$%äß*", min_size=1, max_size=20).map(lambda name: f"~/{name}x")
FORWARDS = st.one_of(
    st.builds(Forward, st.none() | HOSTS, PORTS, st.none(), HOSTS, PORTS, st.none()),
    st.builds(Forward, st.none() | HOSTS, PORTS, st.none(), st.none(), st.none(), SOCKETS),
    st.builds(Forward, st.none(), st.none(), SOCKETS, HOSTS, PORTS, st.none()),
    st.builds(Forward, st.none(), st.none(), SOCKETS, st.none(), st.none(), SOCKETS),
)
LINES = st.builds(
    SshLine,
    host=HOSTS,
    port=st.none() | PORTS,
    user=st.none() | NAMES,
    identity_files=st.lists(PATHS, max_size=3, unique=True).map(tuple),
    forwards=st.lists(FORWARDS, max_size=3, unique=True).map(tuple),
    proxy_command=st.none() | PATHS,
    keepalive_interval=st.none() | st.integers(1, 600).map(float),
    host_key=st.none() | st.sampled_from(["accept-new", "ask"]),
)


@given(LINES, st.randoms(), st.booleans())
def test_a_written_command_line_is_read_back_whatever_the_order(
    line: SshLine, random: Any, glued: bool
) -> None:
    pairs = [
        ("-p", line.port),
        *(("-i", path) for path in line.identity_files),
        ("-o", line.proxy_command and f"ProxyCommand={line.proxy_command}"),
        ("-o", line.keepalive_interval and f"ServerAliveInterval={int(line.keepalive_interval)}"),
        ("-o", line.host_key and f"StrictHostKeyChecking {line.host_key}"),
        ("-l", line.user),
    ]
    groups = [[f"{o}{v}"] if glued else [o, str(v)] for o, v in pairs if v is not None]
    forwards = [word for forward in line.forwards for word in ("-L", str(forward))]
    groups += [["-N"], [line.host]]
    random.shuffle(groups)
    keys = [group for group in groups if group[0].startswith("-i")]  # their order has a meaning
    rest = [word for group in groups if group not in keys for word in group]
    keys.sort(key=lambda group: line.identity_files.index(group[-1] if not glued else group[0][2:]))
    words = ["ssh", *(word for group in keys for word in group), *forwards, *rest]
    assert parse(shlex.join(words)) == line

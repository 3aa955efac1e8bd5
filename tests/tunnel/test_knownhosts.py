"""Surgery on known_hosts: our name's lines go, and nothing else; the file is replaced whole, and nobody's line is lost."""

from __future__ import annotations

import fcntl
import os
import resource
import stat
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import asyncssh
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfytunnel.tunnel import knownhosts
from comfytunnel.tunnel.hostkeys import HostKeys
from comfytunnel.tunnel.knownhosts import append, line_of, replace, without
from tests.tunnel.test_hostkeys import ECDSA, KEY, NAME, OTHER, RSA, line

OLD, NEW = KEY, OTHER
OTHERS = ("[relay.example]:2223", "relay.example", "[relay.example]:22222", "other.example", "xrelay.example")


def hashed(name: str, key: asyncssh.SSHKey, tmp: Path) -> str:
    """The line as ssh-keygen hashes it."""
    path = tmp / "to-hash"
    path.write_text(line(name, key))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(path)], check=True, capture_output=True)
    return path.read_text()


def found(names: Iterable[str], path: Path) -> dict[str, list[str]]:
    """The keys that ssh-keygen finds for each name: "type blob", each with its marker. All are asked at once: one after another a busy machine takes long."""
    asked = {
        name: subprocess.Popen(["ssh-keygen", "-F", name, "-f", path], stdout=subprocess.PIPE, text=True)
        for name in names
    }
    told = {name: process.communicate()[0].splitlines() for name, process in asked.items()}
    return {
        name: [_key(text.split()) for text in lines if not text.startswith("#")]
        for name, lines in told.items()
    }


def _key(words: list[str]) -> str:
    return " ".join(([words[0]] if words[0].startswith("@") else []) + words[-2:])


# --- the text -------------------------------------------------------------------------------------------------------


def test_a_plain_line_goes_and_its_neighbours_stay_byte_for_byte() -> None:
    before, after = "# mine\n\n" + line("other.example", OLD), line(OTHERS[0], OLD) + "nonsense\n  \t\n"
    cut = without(before + line(NAME, OLD) + after, NAME)
    assert cut.text == before + after
    assert (cut.lines, cut.hashed, cut.patterns) == (1, False, ())


@pytest.mark.parametrize(
    ("names", "rest"),
    [
        (f"{NAME},other.example", "other.example"),
        (f"other.example,{NAME},192.0.2.1", "other.example,192.0.2.1"),
        (f"relay.example,{NAME.upper()}", "relay.example"),
        (f"{NAME},{NAME},x", "x"),
    ],
)
def test_of_a_line_with_several_names_only_ours_is_taken_out(names: str, rest: str) -> None:
    cut = without(line(names, OLD).rstrip("\n") + " a comment  kept\n", NAME)
    assert cut.text == line(rest, OLD).rstrip("\n") + " a comment  kept\n"
    assert cut.lines == 1


def test_a_hashed_line_goes_and_other_hashes_stay(tmp_path: Path) -> None:
    others = "".join(hashed(name, OLD, tmp_path) for name in OTHERS)
    cut = without(hashed(NAME, OLD, tmp_path) + others + hashed(NAME, RSA, tmp_path), NAME)
    assert cut.text == others
    assert (cut.lines, cut.hashed) == (2, True)


@pytest.mark.parametrize(
    "kept",
    [
        line(NAME, OLD, "@revoked "),
        line(NAME, OLD, "@cert-authority "),
        "#" + line(NAME, OLD),
        "  # " + line(NAME, OLD),
        "#other.example," + line(NAME, OLD),
        f"{NAME}\n",
        "|1|broken\n",
        "|1|%%%|%%% ssh-ed25519 x\n",
        "|2|AAAA|AAAA ssh-ed25519 x\n",
        "\udcff\udcfe \udcff\n",
    ],
)
def test_markers_comments_and_what_nobody_can_read_stay(kept: str) -> None:
    assert without(kept, NAME).text == kept
    assert without(kept, NAME).lines == 0


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("*.example", ()),  # without the port it is another name
        ("*", ("*",)),
        ("[*.EXAMPLE]:*", ("[*.EXAMPLE]:*",)),
        ("[relay.example]:222?", ("[relay.example]:222?",)),
        ("*,!" + NAME, ()),
        ("[r]:2222", ()),
    ],
)
def test_a_pattern_is_never_rewritten_and_told_if_it_matches(names: str, told: tuple[str, ...]) -> None:
    cut = without(line(names, OLD), NAME)
    assert cut.text == line(names, OLD)
    assert (cut.lines, cut.patterns) == (0, told)


def test_our_name_beside_a_pattern_goes_and_the_pattern_stays() -> None:
    cut = without(line(f"[*]:2222,{NAME}", OLD), NAME)
    assert cut.text == line("[*]:2222", OLD)
    assert cut.patterns == ("[*]:2222",)


POOL = {"ours": NAME, "upper": NAME.upper(), **{other: other for other in OTHERS}}
LINES = st.lists(
    st.tuples(
        st.lists(st.sampled_from(list(POOL)), min_size=1, max_size=3, unique=True),
        st.sampled_from([KEY, OTHER, ECDSA]),
        st.sampled_from(["", "", "", "@revoked ", "@cert-authority ", "#"]),
        st.sampled_from(["plain", "hashed"]),
    ),
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, closed=st.booleans())
def test_in_the_eyes_of_ssh_keygen_only_our_names_keys_have_gone(
    lines: list[tuple[list[str], asyncssh.SSHKey, str, str]], closed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "known_hosts"
    text = ""
    for names, key, marker, kind in lines:
        if kind == "hashed" and not marker:
            text += line_of(POOL[names[0]].lower(), key, hashed=True)
        else:
            text += line(",".join(POOL[name] for name in names), key, marker)
    text = text if closed else text.rstrip("\n")
    path.write_text(text)
    before = found((NAME, *OTHERS), path)
    path.write_text(without(text, NAME).text)
    assert found((NAME, *OTHERS), path) == before | {
        NAME: [key for key in before[NAME] if key.startswith("@")]
    }


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with nothing in it."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    return folder


def test_the_key_is_replaced_and_the_file_as_it_was_lies_beside_it(place: Path) -> None:
    path = place / "known_hosts"
    text = line(NAME, OLD) + line("other.example", OLD) + line(NAME, RSA).rstrip("\n")
    path.write_text(text)
    path.chmod(0o640)
    done = replace(path, NAME, NEW)
    assert path.read_text() == line("other.example", OLD) + line(NAME, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert done.backup is not None
    assert done.backup.parent == place
    assert done.backup.read_text() == text
    assert stat.S_IMODE(done.backup.stat().st_mode) == 0o640
    assert HostKeys(path, "strict", "t").judge(NAME, NEW) is None
    assert HostKeys(path, "strict", "t").judge(NAME, OLD) is not None
    assert sorted(place.iterdir()) == sorted([path, done.backup])


def test_a_file_whose_names_were_hashed_gets_a_hashed_line(place: Path) -> None:
    path = place / "known_hosts"
    path.write_text(hashed(NAME, OLD, place))
    replace(path, NAME, NEW)
    assert "relay" not in path.read_text()
    assert [key.split()[1] for key in found([NAME], path)[NAME]] == [line(NAME, NEW).split()[2]]


def test_a_link_stays_a_link_and_leads_to_the_new_text(place: Path) -> None:
    (place / "dotfiles").mkdir()
    real, path = place / "dotfiles" / "hosts", place / "known_hosts"
    real.write_text(line(NAME, OLD))
    path.symlink_to(Path("dotfiles") / "hosts")
    done = replace(path, NAME, NEW)
    assert path.is_symlink()
    assert real.read_text() == line(NAME, NEW)
    assert done.backup is not None
    assert done.backup.parent == real.parent


def test_no_backup_is_ever_overwritten(place: Path) -> None:
    path = place / "known_hosts"
    keys = [asyncssh.generate_private_key("ssh-ed25519").convert_to_public() for _ in range(4)]
    path.write_text(line(NAME, OLD))
    (place / "known_hosts.old").write_text("ssh-keygen's")
    texts = []
    for key in keys:
        texts.append(path.read_text())
        backup = replace(path, NAME, key).backup
        assert backup is not None
    kept = [one.read_text() for one in place.glob("known_hosts.bak-*")]
    assert sorted(kept) == sorted(texts)
    assert (place / "known_hosts.old").read_text() == "ssh-keygen's"


@pytest.mark.parametrize(
    "text", [None, "", line("other.example", OLD).rstrip("\n")], ids=["no file", "empty", "another host"]
)
def test_where_nothing_has_to_go_a_line_is_added_and_no_backup_made(text: str | None, place: Path) -> None:
    path = place / "new" / "known_hosts"
    if text is not None:
        path.parent.mkdir()
        path.write_text(text)
    assert replace(path, NAME, NEW).backup is None
    assert path.read_text() == (f"{text}\n" if text else "") + line(NAME, NEW)
    assert list(path.parent.iterdir()) == [path]


def test_half_a_line_is_no_line_and_said(place: Path) -> None:
    """A full disk takes the beginning: a key that is not recorded whole could not be compared the next time."""
    path = place / "known_hosts"
    path.write_text(line("other.example", OLD))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            append(path, line(NAME, NEW))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append(path, line(NAME, NEW))
    lines = path.read_text().splitlines(keepends=True)
    assert (lines[0], lines[-1]) == (line("other.example", OLD), line(NAME, NEW))


def at_the_step(monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> None:
    """Let something happen right before the new file takes the old one's place."""
    step = Path.replace

    def stepping(self: Path, target: Path) -> Path:
        before()
        return step(self, target)

    monkeypatch.setattr(Path, "replace", stepping)


def test_a_line_that_ssh_adds_while_we_prepare_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "known_hosts"
    path.write_text(line(NAME, OLD))
    back_up, times = knownhosts._back_up, []

    def slow(real: Path, *rest: object) -> Path:
        times.append(1)
        if len(times) == 1:
            with path.open("a") as ssh:
                ssh.write(line("late.example", RSA))
        return back_up(real, *rest)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(knownhosts, "_back_up", slow)
    done = replace(path, NAME, NEW)
    assert path.read_text() == line("late.example", RSA) + line(NAME, NEW)
    assert done.backup is not None
    assert done.backup.read_text() == line(NAME, OLD) + line("late.example", RSA), "of what was replaced"
    assert len(list(place.iterdir())) == 2, "the first attempt leaves nothing"


def test_a_line_that_ssh_writes_into_the_file_that_is_being_replaced_is_carried_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "known_hosts"
    path.write_text(line(NAME, OLD))
    with path.open("a") as ssh:

        def late() -> None:
            ssh.write(line("late.example", RSA))
            ssh.flush()

        at_the_step(monkeypatch, late)
        replace(path, NAME, NEW)
    assert path.read_text() == line(NAME, NEW) + line("late.example", RSA)


def test_another_replacement_of_ours_is_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "known_hosts"
    path.write_text(line(NAME, OLD))
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        monkeypatch.setattr(knownhosts, "TRIES", 2)
        with pytest.raises(OSError, match="again and again"):
            replace(path, NAME, NEW)
        assert path.read_text() == line(NAME, OLD)
    assert replace(path, NAME, NEW).backup is not None


def test_a_step_that_fails_changes_nothing_and_leaves_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place / "known_hosts"
    path.write_text(line(NAME, OLD))

    def full() -> None:
        raise OSError(28, "No space left on device")

    at_the_step(monkeypatch, full)
    with pytest.raises(OSError, match="No space"):
        replace(path, NAME, NEW)
    assert path.read_text() == line(NAME, OLD)
    assert list(place.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may own files of others")
def test_the_owner_of_the_file_stays_its_owner(place: Path) -> None:
    path = place / "known_hosts"
    path.write_text(line(NAME, OLD))
    os.chown(path, 65534, 65534)
    done = replace(path, NAME, NEW)
    assert done.backup is not None
    assert path.stat().st_uid == done.backup.stat().st_uid == 65534

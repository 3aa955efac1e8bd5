"""`comfytunnel trust` as a person and as a script start it: what is shown, what is asked, what it ends with."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.api.conftest import Api, a_tunnel
from tests.cli.conftest import Cli, on_terminal

OLD, NEW = f"SHA256:{'o' * 43}", f"SHA256:{'n' * 43}"
LOOK, DONE = ("trust None", "default"), (f"trust {NEW}", "default")


async def test_a_person_sees_both_keys_and_is_asked(cli: Cli, api: Api) -> None:
    async with on_terminal(cli, "trust", whole=True) as (terminal, process):
        shown = await terminal.until("[y/N] ")
        assert shown.index(OLD) < shown.index("shown by the host now") < shown.index(NEW)
        assert "[ssh2.vast.ai]:13273" in shown
        assert api.tunnels.asked == [LOOK], "nothing is changed before the answer"
        terminal.type("y\n")
        await terminal.until("/k.bak")
        await terminal.until("tunnel default: up")
        assert await process.wait() == 0
    assert api.tunnels.asked == [LOOK, DONE]


@pytest.mark.parametrize("answer", ["\n", "n\n", "yes please\n", "\x04", "\x03"])
async def test_whatever_is_no_yes_changes_nothing(cli: Cli, api: Api, answer: str) -> None:
    async with on_terminal(cli, "trust", whole=True) as (terminal, process):
        await terminal.until("[y/N] ")
        terminal.type(answer)
        await terminal.until("nothing was changed")
        assert await process.wait() == 1
    assert api.tunnels.asked == [LOOK]


@pytest.mark.parametrize("options", [[], ["--json"]])
async def test_without_a_terminal_nothing_is_asked_and_nothing_changed(
    cli: Cli, api: Api, options: list[str]
) -> None:
    ran = await cli("trust", *options, stdin="y\n")
    assert ran.code == 2
    assert f"--fingerprint {NEW}" in (ran.out if options else ran.err)
    if options:
        assert json.loads(ran.out)["error"]["details"]["seen"]["known"][0]["fingerprint"] == OLD
    assert api.tunnels.asked == [LOOK]


async def test_json_asks_nothing_on_a_terminal_either(cli: Cli, api: Api) -> None:
    async with on_terminal(cli, "trust", "--json", whole=True) as (terminal, process):
        await terminal.until(f"--fingerprint {NEW}")
        assert await process.wait() == 2
        assert "[y/N]" not in terminal.shown
    assert api.tunnels.asked == [LOOK]


async def test_yes_trusts_the_very_key_that_was_shown(cli: Cli, api: Api) -> None:
    ran = await cli("trust", "default", "--yes")
    assert (ran.code, ran.err) == (0, "")
    assert OLD in ran.out
    assert NEW in ran.out
    assert api.tunnels.asked == [LOOK, DONE]


async def test_a_fingerprint_is_handed_on_and_needs_no_look(cli: Cli, api: Api) -> None:
    ran = await cli("trust", "--json", "--fingerprint", NEW)
    assert ran.code == 0
    assert json.loads(ran.out)["replaced"] is True
    assert api.tunnels.asked == [DONE]


async def test_another_key_than_the_named_one_is_refused(cli: Cli, api: Api) -> None:
    ran = await cli("trust", "--fingerprint", f"SHA256:{'x' * 43}")
    assert (ran.code, ran.out) == (5, "")


async def test_what_is_no_fingerprint_is_a_mistake_of_the_command_line(cli: Cli, api: Api) -> None:
    ran = await cli("trust", "--fingerprint", "MD5:aa:bb")
    assert ran.code == 2
    assert "SHA256:..." in ran.err
    assert api.tunnels.asked == []


async def test_a_trusted_key_is_said_so_and_asks_nothing(cli: Cli, api: Api) -> None:
    api.tunnels.keys = msgspec.structs.replace(
        api.tunnels.keys, status="trusted", known=[api.tunnels.keys.offered]
    )
    ran = await cli("trust")
    assert (ran.code, "Already trusted" in ran.out) == (0, True)


async def test_a_revoked_key_is_refused_whoever_agrees(cli: Cli, api: Api) -> None:
    api.tunnels.keys = msgspec.structs.replace(api.tunnels.keys, status="revoked")
    ran = await cli("trust", "--yes")
    assert ran.code == 5
    assert "revoked" in ran.err
    assert api.tunnels.asked == [LOOK]


async def test_of_several_tunnels_one_must_be_named(cli: Cli, api: Api) -> None:
    api.tunnels.known["spare"] = a_tunnel()
    ran = await cli("trust", "--yes")
    assert ran.code == 2
    assert "default, spare" in ran.err
    assert (await cli("trust", "nobody", "--yes")).code == 2


async def test_without_a_daemon_it_says_how_to_start_one(alone: Cli) -> None:
    ran = await alone("trust", "--yes")
    assert (ran.code, ran.out) == (3, "")
    assert "comfytunnel daemon" in ran.err

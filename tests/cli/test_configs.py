"""`config check | show | path | reload`, as a process."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest

from comfytunnel import config
from comfytunnel.configfields import SECTIONS
from tests.api.conftest import Api
from tests.cli.conftest import Cli

GOOD = '[tunnels.default]\nhost = "h"\nport = 1\n[web]\ntoken = "very-secret-token-0123456789"\n'


async def test_config_check_names_every_mistake(alone: Cli) -> None:
    path = alone.folder / "config.toml"
    path.write_text('[tunnels.default]\nhost = "h"\nport = 99999\nkeepalive_intervall = 3\n')
    ran = await alone("config", "check")
    assert ran.code == 2
    assert "2 mistakes" in ran.err
    assert "tunnels.default.port" in ran.err
    found: dict[str, Any] = json.loads((await alone("config", "check", "--json")).out)
    assert (found["ok"], len(found["problems"])) == (False, 2)


async def test_config_show_hides_the_token_and_path_says_where(alone: Cli) -> None:
    path = alone.folder / "config.toml"
    path.write_text(GOOD)
    path.chmod(0o600)
    assert (await alone("config", "check")).code == 0
    shown = await alone("config", "show")
    assert shown.code == 0, shown.err
    assert "very-secret" not in shown.out + (await alone("config", "show", "--json")).out
    assert "# token: set, and not shown\n" in shown.out
    assert tomllib.loads(shown.out)["tunnels"]["default"]["keepalive_interval"] == 15
    assert (await alone("config", "path")).out == f"{path}\n"


@pytest.mark.parametrize(
    "text",
    [
        '[tunnels.default]\nhost = "h"\n',
        (
            '[tunnels.a-1]\nssh = "ssh -p 13273 -i ~/.ssh/a -J me@gate root@ssh2.vast.ai -L 8888:localhost:18188"\nssh_config = ""\n'
            'agent = "none"\nallowed_hosts = ["my-box.lan"]\nallowed_origins = ["http://localhost:5173"]\n'
            '[tunnels.b]\nhost = "::1"\nlisten = "[::1]:18189"\nremote = "unix:/run/comfyui.sock"\nproxy_command = "nc %h \\"%p\\""\n'
            '[web]\nlisten = "localhost:8000"\n[jobs]\ntime_to_run = 0.5\noutput_dir = "/a b/\u00fcn\u00ef"\n'
        ),
        '[tunnels.u]\nhost = "h"\nlisten = "unix:/run/user/1/c.sock"\nidentity_file = ["/a", "/b"]\n',
    ],
)
async def test_what_config_show_prints_is_a_config_that_says_the_same(alone: Cli, text: str) -> None:
    path = alone.folder / "config.toml"
    path.write_text(text)
    shown = await alone("config", "show")
    assert shown.code == 0, shown.err
    assert config.parse(shown.out, path) == config.load(path)
    as_json = json.loads((await alone("config", "show", "--json")).out)
    assert as_json.pop("source") == str(path)
    given = tomllib.loads(shown.out)
    assert {name: _without_null(table) for name, table in as_json["tunnels"].items()} == given["tunnels"]
    assert set(given["jobs"]) == set(SECTIONS["jobs"])


def _without_null(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


async def test_config_reload_says_what_changed_or_what_is_wrong(api: Api, cli: Cli) -> None:
    ran = await cli("config", "reload")
    assert (ran.code, ran.out) == (0, "reloaded config.toml: [log]\n")
    assert json.loads((await cli("config", "reload", "--json")).out)["added"] == []

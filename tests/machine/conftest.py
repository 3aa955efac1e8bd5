"""What only root can see of a service, on a machine that is thrown away afterwards: `make test-machine`. Nobody else should run it, so
it asks for COMFYTUNNEL_TEST_MACHINE=throw-away.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.app.world import World
from tests.cli.conftest import Ran
from tests.system.conftest import run

PYTHON = "/usr/bin/python3"  # no home folder lies before it


@pytest.fixture(autouse=True, scope="session")
def allowed() -> None:
    if os.environ.get("COMFYTUNNEL_TEST_MACHINE") != "throw-away":
        pytest.skip("changes the machine: users, units of the system")
    assert os.geteuid() == 0


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="ct-") as folder:
        async with World(Path(folder)) as made:
            yield made


@pytest.fixture(scope="session")
def program() -> list[str]:
    """The wheel in a place that every user may read."""
    place = Path("/opt/comfytunnel-test")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(place)], check=True)
    installed = Path(os.environ["COMFYTUNNEL_TEST_INSTALLED"]).parents[1]
    (packages,) = installed.glob("lib/python*/site-packages")
    (ours,) = place.glob("lib/python*/site-packages")
    assert packages.parent.name == ours.parent.name, "the wheel was installed for another Python"
    shutil.copytree(packages, ours, dirs_exist_ok=True)  # where it lies now may be hidden from services
    return [str(place / "bin" / "python"), "-m", "comfytunnel"]


async def as_user(name: str, *words: str, **environ: str) -> Ran:
    """A command of that user, with their groups, as after a login."""
    user = pwd.getpwnam(name)
    runtime = f"/run/user/{user.pw_uid}"
    own = {"HOME": user.pw_dir, "USER": name, "LOGNAME": name, "XDG_RUNTIME_DIR": runtime}
    own["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups")
    return await run("setpriv", *ids, *words, **own, **environ)

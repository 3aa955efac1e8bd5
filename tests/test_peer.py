"""Who counts as an owner of the daemon."""

from __future__ import annotations

import grp
import os
import pwd

from comfytunnel.peer import is_owner

OTHER = os.geteuid() + 1


def test_a_persons_daemon_serves_that_person_alone() -> None:
    assert is_owner(os.geteuid(), {})
    assert not is_owner(OTHER, {})
    assert os.geteuid() == 0 or not is_owner(0, {})


def test_the_machines_daemon_serves_root_and_the_members_of_its_group() -> None:
    """By the group of their login, or by the group's list."""
    daemon = pwd.getpwnam("daemon")
    group = {"COMFYTUNNEL_GROUP": grp.getgrgid(daemon.pw_gid).gr_name}
    assert is_owner(0, group)
    assert is_owner(daemon.pw_uid, group)
    others = [
        user
        for user in pwd.getpwall()
        if user.pw_gid != daemon.pw_gid and user.pw_uid not in (0, os.geteuid())
    ]
    members = grp.getgrgid(daemon.pw_gid).gr_mem
    stranger = next(user for user in others if user.pw_name not in members)
    assert not is_owner(stranger.pw_uid, group)
    assert not is_owner(2**31 - 7, group), "nobody's uid"


def test_a_group_that_is_not_there_lets_nobody_in() -> None:
    assert not is_owner(pwd.getpwnam("daemon").pw_uid, {"COMFYTUNNEL_GROUP": "no-such-group"})

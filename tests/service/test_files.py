"""What `install` writes and `uninstall` removes, and what of a person's it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfytunnel.errors import StateError
from comfytunnel.service.files import Found, Record, Wanted, shipped


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    return Wanted(tmp_path / "made" / "folder" / "unit", "one\n")


def test_what_was_written_is_known_again_and_goes_with_its_folders(tmp_path: Path, wanted: Wanted) -> None:
    record = Record(tmp_path / "state")
    assert record.found(wanted) is Found.NOTHING
    record.write([wanted])
    again = Record(tmp_path / "state")
    assert again.found(wanted) is Found.SAME
    assert again.found(Wanted(wanted.path, "two\n")) is Found.OURS
    assert again.remove(again.paths()) == []
    assert not (tmp_path / "made").exists()
    assert list((tmp_path / "state").iterdir()) == []


def test_what_a_person_has_edited_is_told_apart_and_stays(tmp_path: Path, wanted: Wanted) -> None:
    record = Record(tmp_path / "state")
    record.write([wanted])
    wanted.path.write_text("mine\n")
    assert record.found(wanted) is Found.EDITED
    assert wanted.diff().splitlines()[2:] == ["@@ -1 +1 @@", "-mine", "+one"]
    assert record.remove(record.paths()) == [wanted.path]
    assert wanted.path.read_text() == "mine\n"


def test_a_file_of_somebody_else_is_not_ours_because_it_lies_there(tmp_path: Path, wanted: Wanted) -> None:
    wanted.path.parent.mkdir(parents=True)
    wanted.path.write_text("theirs\n")
    assert Record(tmp_path / "state").found(wanted) is Found.EDITED


def test_a_folder_with_other_things_in_it_stays(tmp_path: Path, wanted: Wanted) -> None:
    record = Record(tmp_path / "state")
    record.write([wanted])
    (wanted.path.parent / "theirs").touch()
    record.remove(record.paths())
    assert (wanted.path.parent / "theirs").exists()


def test_a_file_that_is_not_wanted_any_more_is_stale(tmp_path: Path, wanted: Wanted) -> None:
    record = Record(tmp_path / "state")
    other = Wanted(tmp_path / "made" / "other", "x")
    record.write([wanted, other])
    assert record.stale([other]) == [wanted.path]


def test_a_record_that_is_lost_makes_nothing_ours_but_what_is_the_very_same(
    tmp_path: Path, wanted: Wanted
) -> None:
    Record(tmp_path / "state").write([wanted])
    (tmp_path / "state" / "service.json").write_text("[]")
    record = Record(tmp_path / "state")
    assert record.found(wanted) is Found.SAME
    assert record.found(Wanted(wanted.path, "two\n")) is Found.EDITED


def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be written"):
        Record(tmp_path / "state").write([Wanted(tmp_path / "file" / "unit", "x")])


def test_the_units_are_found_in_a_source_tree_too() -> None:
    assert "[Socket]" in shipped("systemd/comfytunnel.socket")

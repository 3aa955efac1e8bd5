"""The files that `install` writes and `uninstall` removes: these and no others, and none that a person has changed without their word.

A record in the state folder (service.json) holds what was written, with a digest of each file: it tells a file of an older version,
which is replaced, from one that a person has edited, which is not. Nothing here knows what a unit is.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from pathlib import Path

import msgspec

from comfytunnel.decoding import decode
from comfytunnel.errors import StateError
from comfytunnel.paths import make_private_folder

RECORD = "service.json"
RECORD_MOST = 1 << 20  # bytes


def shipped(name: str) -> str:
    """The text of a file of the wheel: "systemd/comfytunnel.service". In a source tree it is the same file, at the tree's root."""
    inside = resources.files("comfytunnel.service").joinpath("units", name)
    if inside.is_file():
        return inside.read_text("utf-8")
    return (Path(__file__).parents[3] / name).read_text("utf-8")


class Found(StrEnum):
    """What stands where a file is to be written."""

    NOTHING = "new"
    SAME = "unchanged"
    OURS = "updated"  # as an install before wrote it
    EDITED = "edited"  # by a person, or not ours at all


@dataclass(frozen=True, slots=True)
class Wanted:
    path: Path
    text: str
    mode: int = 0o644

    def diff(self) -> str:
        """From what stands there to what would: a unified diff, "" where nothing differs."""
        old = _read(self.path)
        lines = difflib.unified_diff(
            [] if old is None else old.splitlines(),
            self.text.splitlines(),
            str(self.path) if old is not None else os.devnull,
            str(self.path),
            lineterm="",
        )
        return "\n".join(lines)


class Written(msgspec.Struct):
    """The record: path to SHA-256, and the folders that were made for them, outermost first."""

    files: dict[str, str] = {}
    folders: list[str] = []


class Record:
    """The record of one installation, in its state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / RECORD
        self.written = self._load()

    def _load(self) -> Written:
        try:
            text = self._path.read_bytes()
            return decode(text[:RECORD_MOST], Written)
        except (OSError, msgspec.DecodeError):
            return Written()  # then what stands there counts as edited, unless it is the very same

    def found(self, wanted: Wanted) -> Found:
        old = _read(wanted.path)
        if old is None:
            return Found.NOTHING
        if old == wanted.text:
            return Found.SAME
        return Found.OURS if self.written.files.get(str(wanted.path)) == _digest(old) else Found.EDITED

    def write(self, wanted: Iterable[Wanted]) -> None:
        """Write these files, each in one step, and remember them. StateError if that cannot be done."""
        chosen = list(wanted)
        for each in chosen:
            try:
                self._make_folder(each.path.parent)
                _replace(each)
            except OSError as error:
                raise StateError(
                    f"{each.path} cannot be written: {error.strerror}.",
                    hint="Check the folder's permissions. `comfytunnel uninstall` removes what was written.",
                ) from error
            self.written.files[str(each.path)] = _digest(each.text)
            self._save()

    def remember(self, wanted: Iterable[Wanted]) -> None:
        """These stand there as we would have written them."""
        for each in wanted:
            self.written.files[str(each.path)] = _digest(each.text)
        self._save()

    def stale(self, wanted: Iterable[Wanted]) -> list[Path]:
        """Files of an install before that are not wanted any more."""
        keep = {str(each.path) for each in wanted}
        return [Path(path) for path in self.written.files if path not in keep]

    def remove(self, paths: Iterable[Path], *, edited_too: bool = False) -> list[Path]:
        """Remove of these what we wrote; returns what a person has edited, which stays unless `edited_too`."""
        left = []
        for path in paths:
            old = _read(path)
            if old is not None and self.written.files.get(str(path)) != _digest(old) and not edited_too:
                left.append(path)
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            self.written.files.pop(str(path), None)
        for folder in reversed(self.written.folders[:]):
            with contextlib.suppress(OSError):  # not empty: somebody else has files in it
                Path(folder).rmdir()
                self.written.folders.remove(folder)
        self._save()
        return left

    def paths(self) -> list[Path]:
        return [Path(path) for path in self.written.files]

    def _make_folder(self, folder: Path) -> None:
        for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
            missing.mkdir(exist_ok=True)
            self.written.folders.append(str(missing))

    def _save(self) -> None:
        if not self.written.files and not self.written.folders:
            self._path.unlink(missing_ok=True)
            return
        make_private_folder(self._path.parent)
        _replace(Wanted(self._path, msgspec.json.encode(self.written).decode() + "\n", 0o600))


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _replace(wanted: Wanted) -> None:
    handle, temporary = tempfile.mkstemp(dir=wanted.path.parent, prefix=f".{wanted.path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(wanted.text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(wanted.mode)
        Path(temporary).replace(wanted.path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

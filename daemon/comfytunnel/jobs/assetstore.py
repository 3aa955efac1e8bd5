"""The records of uploaded files: the SQL of the table `assets`, and which stored bytes are still needed. It runs on the store's thread.

A record is what the user sees and deletes; the bytes lie under their hash and may have several records, or only a job that has not
ended and was given them. An expired record is as good as none, from that second on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime

import msgspec

from comfytunnel.decoding import decoder
from comfytunnel.jobs.model import Asset, Output
from comfytunnel.jobs.store import Store

_assets = decoder(Asset)
_outputs = decoder(Output)

_BY_ID = "SELECT body FROM assets WHERE id = ? AND (expires IS NULL OR expires > ?)"
_BY_HASH = "SELECT body FROM assets WHERE blake3 = ? AND (expires IS NULL OR expires > ?) ORDER BY seq DESC"
_BY_NAME = (
    "SELECT body FROM assets WHERE file_path = ? AND (expires IS NULL OR expires > ?) ORDER BY seq DESC"
)
_KNOWN_NAMES = "SELECT DISTINCT file_path FROM assets WHERE file_path IN (SELECT value FROM json_each(?))"
_SAYS = ("file_path", "content_type", "tags")
_NEEDED = """
    SELECT blake3 FROM assets
    UNION SELECT inputs.blake3 FROM inputs JOIN jobs ON jobs.id = inputs.job_id WHERE jobs.stage != 'ended'
"""


class AssetStore:
    """Every method may raise StateError."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, asset: Asset, *, claim: str | None = None) -> None:
        """UsageError (`idempotency_key_reuse`) if the claim, an Idempotency-Key, was used before; else it is used with this."""

        def insert(db: sqlite3.Connection) -> None:
            if claim is not None:
                self._store.claim(claim, asset.id, asset.created_at, "asset")
            _insert(db, asset)

        await self._store.writing(insert)

    async def get(self, asset_id: str, now: datetime) -> Asset | None:
        return await self._store.reading(lambda db: _first(db, _BY_ID, asset_id, now))

    async def of_hash(self, blake3: str, now: datetime) -> Asset | None:
        """The newest record of these bytes."""
        return await self._store.reading(lambda db: _first(db, _BY_HASH, blake3, now))

    async def like(self, asset: Asset, now: datetime) -> Asset | None:
        """A record that says the same of the same bytes, with its end moved to that of `asset` if that is later."""

        def look(db: sqlite3.Connection) -> Asset | None:
            rows = db.execute(_BY_HASH, (asset.blake3, now.timestamp()))
            for found in (_assets.decode(row[0]) for row in rows):
                if all(getattr(found, name) == getattr(asset, name) for name in _SAYS):
                    return _prolong(db, found, asset.expires_at)
            return None

        return await self._store.writing(look)

    async def find(
        self, ids: Iterable[str], paths: Iterable[str], now: datetime
    ) -> tuple[dict[str, Asset | Output], dict[str, Asset]]:
        """What these ids name, uploaded or made by a job, and the newest upload under each of these names."""

        def look(db: sqlite3.Connection) -> tuple[dict[str, Asset | Output], dict[str, Asset]]:
            by_id: dict[str, Asset | Output] = {}
            for asset_id in ids:
                found = _first(db, _BY_ID, asset_id, now) or _output(db, asset_id)
                if found is not None:
                    by_id[asset_id] = found
            known = db.execute(_KNOWN_NAMES, (msgspec.json.encode(list(paths)).decode(),)).fetchall()
            named = ((path, _first(db, _BY_NAME, path, now)) for (path,) in known)
            return by_id, {path: asset for path, asset in named if asset is not None}

        return await self._store.reading(look)

    async def delete(self, asset_id: str, now: datetime) -> bool:
        """Whether there was such a record."""

        def remove(db: sqlite3.Connection) -> bool:
            gone = db.execute(
                "DELETE FROM assets WHERE id = ? AND (expires IS NULL OR expires > ?)",
                (asset_id, now.timestamp()),
            )
            return gone.rowcount > 0

        return await self._store.writing(remove)

    async def expire(self, now: datetime) -> int:
        """Forget the records whose time is over; how many."""

        def remove(db: sqlite3.Connection) -> int:
            return db.execute("DELETE FROM assets WHERE expires <= ?", (now.timestamp(),)).rowcount

        return await self._store.writing(remove)

    async def needed(self) -> set[str]:
        """The hashes of all bytes that a record or a job that has not ended still needs."""
        return await self._store.reading(lambda db: {row[0] for row in db.execute(_NEEDED)})


def _first(db: sqlite3.Connection, sql: str, value: str, now: datetime) -> Asset | None:
    row = db.execute(sql, (value, now.timestamp())).fetchone()
    return None if row is None else _assets.decode(row[0])


def _output(db: sqlite3.Connection, asset_id: str) -> Output | None:
    row = db.execute("SELECT body FROM outputs WHERE asset_id = ?", (asset_id,)).fetchone()
    return None if row is None else _outputs.decode(row[0])


def _insert(db: sqlite3.Connection, asset: Asset) -> None:
    db.execute(
        "INSERT INTO assets (id, blake3, file_path, expires, body) VALUES (?, ?, ?, ?, ?)",
        (asset.id, asset.blake3, asset.file_path, _seconds(asset.expires_at), msgspec.json.encode(asset)),
    )


def _prolong(db: sqlite3.Connection, found: Asset, until: datetime | None) -> Asset:
    """Retention is extended, never shortened."""
    if found.expires_at is None or (until is not None and until <= found.expires_at):
        return found
    longer = msgspec.structs.replace(found, expires_at=until)
    db.execute(
        "UPDATE assets SET expires = ?, body = ? WHERE id = ?",
        (_seconds(until), msgspec.json.encode(longer), found.id),
    )
    return longer


def _seconds(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()

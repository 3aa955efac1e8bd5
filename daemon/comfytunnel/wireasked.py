"""What may be asked for beside a JSON body: the parameters of a query and the fields of a form.

Part of wire.py, which passes every name on: readers import them from there. Nothing here does I/O.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from comfytunnel.words import Status

Sought = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
"""A text that is looked for."""


class JobsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list. `prefix`: what the id begins with; `label`: what stands in the label; `since`: when they were submitted, at the earliest; `cursor`: the `next_cursor` of the page before."""

    status: Status | None = None
    prefix: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f-]{4,36}$")] | None = None
    label: Sought | None = None
    tunnel: Sought | None = None
    since: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    cursor: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}$")] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 100


class OutagesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which outages to list: those of one tunnel, and how many."""

    tunnel: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class DoctorQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The tunnel to examine; null: each of them."""

    tunnel: str | None = None


class RemoveQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the files go, too."""

    files: bool = False


class AssetForm(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of POST /api/v2/assets, in any order. `expires_in`: seconds."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"})]
    content_type: str
    file_path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    expected_hash: Annotated[str, msgspec.Meta(pattern="^blake3:[0-9a-f]{64}$")] | None = None
    tags: list[Annotated[str, msgspec.Meta(min_length=1, max_length=100)]] = []
    expires_in: Annotated[int, msgspec.Meta(ge=60, le=604_800)] | None = None

"""ComfyUI's HTTP API as typed methods."""

from __future__ import annotations


class Client:
    """One ComfyUI, spoken to over TCP through the door."""

    def __init__(self, base_url: str, *, unix_socket: str | None = None) -> None:
        raise NotImplementedError

"""Where each HTTP/1.x request of a connection begins and ends, read from the caller's bytes. Pure: bytes in, bytes out.

A head is held until it is whole and judged; bodies pass by length, uncopied and unread. What two readers could frame in two ways
(both lengths, folded lines, bare LF, ...) is refused, never repaired: we must not disagree with the server behind about
where a request begins. What is not HTTP/1.x passes from its first bytes on. Who may pass is decided by the judge (guard.py), not here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

HEAD_LIMIT = (
    64 << 10
)  # bytes of a head, of a chunk's first line, of trailers; aiohttp, ComfyUI's server, takes 8 KiB a line

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e\x80-\xff]*)?")
_FIRST_LINE = re.compile(
    _TOKEN + rb"(?: [\x20-\x7e\x80-\xff]*)?"
)  # as much as could be a request's first line
_VERSION = b" HTTP/"  # what tells a request from other protocols that begin with a word
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"TRACE ", b"CONNECT ")
_SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")  # RFC 9110, 9.2.1
_HTTP2 = b"PRI * HTTP/2.0"  # RFC 9113, 3.4


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is turned away: HTTP status, stable code, and for people what happened and the next step."""

    status: int
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head. Texts are Latin-1, names in lower case; a field that occurs twice has two values. `minor`: 0 or 1."""

    method: str
    target: str
    minor: int = 1
    fields: Mapping[str, list[str]] = field(default_factory=dict)


class _At(enum.Enum):
    START = "before a request"
    HEAD = "in a head"
    SIZE = "before a chunk"
    CHUNK_END = "behind a chunk"
    TRAILERS = "behind the last chunk"
    ELSE = "in what is not HTTP/1.x"


class _Malformed(Exception):  # noqa: N818 - it never leaves this file
    pass


class Reader:
    """One direction of one connection. How the bytes are cut into feeds changes nothing but when they pass."""

    def __init__(self, judge: Callable[[Head], Refusal | None]) -> None:
        self.refusal: Refusal | None = None  # once set, nothing passes any more
        self.accepted = 0  # requests whose heads have passed
        self._judge = judge
        self._at = _At.START
        self._held = b""
        self._read = 0  # bytes of what is held that have been read
        self._sent = 0  # bytes of what is held that have passed: the beginning of a first line
        self._left = 0  # bytes of a body or chunk that are to come
        self._lines: list[bytes] = []
        self._safe = True
        self._may_change = True  # another protocol may follow: at the beginning, after Upgrade and CONNECT

    @property
    def refused(self) -> bool:
        return self.refusal is not None

    @property
    def passes(self) -> bool:
        """It is not HTTP/1.x (any more): everything else passes, feed() need not be called again."""
        return self._at is _At.ELSE

    @property
    def repeatable(self) -> bool:
        """What has passed is whole requests that change nothing, and without a body: a server may get them twice (RFC 9110, 9.2.2)."""
        whole = self._at is _At.START and not self._held and not self._left
        return bool(self.accepted) and whole and self._safe and not self.refused

    def feed(self, data: bytes) -> bytes:
        """Take the caller's next bytes; return what may go on now, in order. Look at `refusal` afterwards."""
        return b"" if self.refused else self._take(self._held + data if self._held else data)

    def _take(self, data: bytes) -> bytes:
        start, read, sent = 0, self._read, self._sent
        try:
            while read < len(data) and not self.refused:
                if self._left:
                    step = min(self._left, len(data) - read)
                    self._left -= step
                    start = read = read + step
                elif self._at is _At.START and data[read] in b"\r\n":
                    start = read = read + 1  # RFC 9112, 2.2: servers skip empty lines here, or object
                elif self._at is _At.START and not self._decide(data[read : read + HEAD_LIMIT]):
                    break
                elif self._at is _At.ELSE:
                    start = read = len(data)
                else:
                    end = data.find(b"\n", read) + 1
                    if (end or len(data)) - start > HEAD_LIMIT:
                        raise _Malformed(f"its head is longer than {HEAD_LIMIT >> 10} KiB.")
                    if not end:
                        break
                    if self._line(data[read:end]):
                        start = end
                    read = end
        except _Malformed as error:
            self._refuse(400, "bad_request", f"The request cannot be read safely: {error}")
        if self.refused:
            self._held = b""
            return data[sent : max(sent, start)]
        self._held, self._read = data[start:], read - start
        self._sent = self._early(0 if start else sent)
        return data[sent : start + self._sent]

    def eof(self) -> bytes:
        """The caller sends no more; return what may still go on. Half a head never does: a server might take it for whole."""
        rest = self._held[self._sent :] if self._at is _At.START and self._may_change else b""
        self._held = b""
        return b"" if self.refused else rest

    # --- before a request -------------------------------------------------------------------------------------------

    def _decide(self, line: bytes) -> bool:
        """Whether what begins here is a request or something else; False while it could be both."""
        speaks = _speaks_http(line)
        if speaks is None and len(line) < HEAD_LIMIT:
            return False
        if speaks is None:
            raise _Malformed(f"its first line is longer than {HEAD_LIMIT >> 10} KiB.")
        if not speaks and not self._may_change:
            raise _Malformed("what follows the request before it is no request.")
        self._at = _At.HEAD if speaks else _At.ELSE
        return True

    def _early(self, sent: int) -> int:
        """How much of an undecided first line may pass, of which `sent` bytes have. No server acts on half a line, and the peer
        of another protocol may wait for it."""
        undecided = self._at is _At.START and self._may_change
        if not undecided or any(method.startswith(self._held[: len(method)]) for method in _METHODS):
            return sent
        tail = next(size for size in range(len(_VERSION), -1, -1) if self._held.endswith(_VERSION[:size]))
        return max(sent, len(self._held) - tail)

    # --- lines ------------------------------------------------------------------------------------------------------

    def _line(self, ended: bytes) -> bool:
        """Read one line with its end; True if all up to here may pass."""
        if not ended.endswith(b"\r\n"):
            raise _Malformed("a line ends without CR.")
        line = ended[:-2]
        if self._at is _At.SIZE:
            return self._size(line)
        if self._at is _At.CHUNK_END:
            if line:
                raise _Malformed("a chunk is longer than it says.")
            self._at = _At.SIZE
            return True
        if line:
            self._lines.append(line)
            if self._at is _At.TRAILERS:
                _field(line)
            return self._lines[0] == _HTTP2 and self._is_http2()
        if self._at is _At.HEAD:
            return self._head()
        self._next_request()
        return True

    def _is_http2(self) -> bool:
        if not self._may_change:
            raise _Malformed("HTTP/2 cannot begin in the middle of a connection.")
        self._at = _At.ELSE
        return True

    def _size(self, line: bytes) -> bool:
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _Malformed("the size of a chunk is not a plain hexadecimal number.")
        self._left = int(match[1], 16)
        self._at = _At.CHUNK_END if self._left else _At.TRAILERS
        return True

    def _head(self) -> bool:
        match = _REQUEST.fullmatch(self._lines[0])
        if match is None:
            raise _Malformed("its first line is not `METHOD TARGET HTTP/1.1`.")
        fields: dict[str, list[str]] = {}
        for line in self._lines[1:]:
            name, value = _field(line)
            fields.setdefault(name, []).append(value)
        head = Head(match[1].decode("latin-1"), match[2].decode("latin-1"), int(match[3]), fields)
        length = _body(head)
        self.refusal = self._judge(head)
        if self.refusal is not None:
            return False
        self.accepted += 1
        self._safe = self._safe and head.method in _SAFE and length == 0
        self._next_request()
        self._may_change = "upgrade" in fields or head.method == "CONNECT"
        if length is None:
            self._at = _At.SIZE
        else:
            self._left = length
        return True

    def _next_request(self) -> None:
        self._at, self._lines = _At.START, []

    def _refuse(self, status: int, code: str, message: str, hint: str = "") -> None:
        self.refusal = Refusal(status, code, message, hint)


def _speaks_http(line: bytes) -> bool | None:
    """Whether a first line, or its beginning, is an HTTP request's. What begins with a usual method is held to it, well-formed or not."""
    if any(map(line.startswith, _METHODS)):
        return True
    match = _FIRST_LINE.match(line)
    if match is None:
        return False
    if _VERSION in match[0]:
        return True
    return None if match.end() == len(line) else False


def _field(line: bytes) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if (
        match is None
    ):  # folded lines (they begin with a blank), a blank before the colon, NUL, a lone CR, no colon
        raise _Malformed("a line of its head is not `Name: value`.")
    return match[1].decode("latin-1").lower(), match[2].decode("latin-1")


def _body(head: Head) -> int | None:
    """How long the body is, in bytes; None if it comes in chunks (RFC 9112, 6.3, without the parts that servers read in two ways)."""
    lengths, codings = head.fields.get("content-length", []), head.fields.get("transfer-encoding", [])
    if len(lengths) + len(codings) > 1:
        raise _Malformed("it gives the length of its body twice.")
    if codings and (head.minor == 0 or codings[0].lower() != "chunked"):
        raise _Malformed("its Transfer-Encoding is not `chunked` in HTTP/1.1.")
    if lengths and not _LENGTH.fullmatch(lengths[0].encode("latin-1")):
        raise _Malformed("its Content-Length is not a plain number.")
    length = None if codings else int(lengths[0]) if lengths else 0
    takes_over = head.method == "CONNECT" or "websocket" in ",".join(head.fields.get("upgrade", [])).lower()
    if takes_over and length != 0:
        raise _Malformed(
            "a request that changes the protocol has a body."
        )  # some servers read it, some do not
    return length

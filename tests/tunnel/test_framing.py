"""Where requests begin and end: whole heads only, each of them, and nothing that two servers could read in two ways."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfytunnel.tunnel import framing
from comfytunnel.tunnel.framing import Head, Reader, Refusal

NO = Refusal(403, "no", "no")
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
EVIL = b"GET /evil HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /prompt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /upload/image HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\nA;name=value\r\n0\r\n\r\nGET /\r\n0\r\nDigest: x\r\n\r\n"
)
UPGRADE = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
FRAMES = b"\x81\x85\0\0\0\0hello" + EVIL


def judge(head: Head) -> Refusal | None:
    return NO if "evil" in head.target else None


def read(*pieces: bytes) -> tuple[bytes, Reader]:
    reader = Reader(judge)
    return b"".join(reader.feed(piece) for piece in pieces), reader


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def long_head(size: int) -> bytes:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
    while len(head) < size - 4:
        head += b"X: " + b"x" * min(8000, size - len(head) - 7) + b"\r\n"
    return head + b"\r\n"


# --- what passes ----------------------------------------------------------------------------------------------------

GOOD = {
    "one": (GET, 1),
    "a body": (POST, 1),
    "chunks and trailers": (CHUNKED, 1),
    "kept alive": (GET + POST + CHUNKED + GET, 4),
    "empty lines between": (b"\r\n" + POST + b"\r\n" + GET, 2),
    "an upgrade that the server takes": (GET + UPGRADE + FRAMES, 2),
    "an upgrade that the server refuses": (UPGRADE + GET, 2),
    "an upgrade with a body": (
        POST.replace(b"Content", b"Upgrade: h2c\r\nContent") + b"PRI * HTTP/2.0\r\n\r\nSM",
        1,
    ),
    "bytes above ASCII": ("GET /view?filename=é HTTP/1.1\r\nHost: localhost\r\nX: é\r\n\r\n".encode(), 1),
    "a head of the largest size": (long_head(framing.HEAD_LIMIT), 1),
    "a strange method": (GET.replace(b"GET", b"PROPFIND"), 1),
}


@pytest.mark.parametrize(("data", "requests"), GOOD.values(), ids=GOOD)
def test_requests_pass_unchanged(data: bytes, requests: int) -> None:
    for pieces in ([data], bytewise(data)):
        passed, reader = read(*pieces)
        assert passed == data
        assert reader.refusal is None
        assert reader.accepted == requests


OTHER = {
    "TLS": b"\x16\x03\x01\x02\x00\x01",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a word": b"x",
    "more words": b"half a",
    "another line": b"EHLO example.com\r\n" + EVIL,
    "another version of another protocol": b"INVITE sip:a@b SIP/2.0\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4",
    "zeros": bytes(100_000),
}


@pytest.mark.parametrize("data", OTHER.values(), ids=OTHER)
def test_other_protocols_pass_at_once(data: bytes) -> None:
    for pieces in ([data], bytewise(data)):
        passed, reader = read(*pieces)
        assert passed == data
        assert reader.refusal is None
        assert not reader.accepted


def test_a_body_is_passed_on_without_a_copy() -> None:
    _, reader = read(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n")
    body = bytes(1_000_000)
    assert all(reader.feed(body) is body for _ in range(3))
    assert reader.feed(EVIL) == b""


# --- what is held ---------------------------------------------------------------------------------------------------


def test_nothing_of_a_head_passes_before_it_is_whole() -> None:
    for at in range(1, len(GET)):
        passed, reader = read(GET[:at])
        assert passed == b""
        assert reader.eof() == (GET[:at] if at < len("GET ") else b"")


def test_of_a_strange_method_only_what_no_server_acts_on_passes_early() -> None:
    evil = EVIL.replace(b"GET", b"EXPLOIT")
    passed, reader = read(*bytewise(evil))
    assert passed == b"EXPLOIT /evil"
    assert reader.refusal == NO


def test_at_the_end_what_could_still_have_been_another_protocol_passes() -> None:
    passed, reader = read(b"fine HT")
    assert passed + reader.eof() == b"fine HT"
    passed, reader = read(GET, b"GE")
    assert passed + reader.eof() == GET


# --- what is refused ------------------------------------------------------------------------------------------------


def with_line(line: bytes, first: bytes = b"POST / HTTP/1.1") -> bytes:
    return first + b"\r\nHost: localhost\r\n" + line + b"\r\n\r\n"


CHUNKS = with_line(b"Transfer-Encoding: chunked")
BAD = {
    "both lengths": with_line(b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
    "two lengths": with_line(b"Content-Length: 5\r\nContent-Length: 5"),
    "a list of lengths": with_line(b"Content-Length: 5, 5"),
    "a signed length": with_line(b"Content-Length: +5"),
    "a length of other digits": with_line("Content-Length: ²".encode("latin-1")),
    "an empty length": with_line(b"Content-Length:"),
    "an endless length": with_line(b"Content-Length: " + b"9" * 30),
    "another coding": with_line(b"Transfer-Encoding: gzip, chunked"),
    "a coding twice": with_line(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "a coding in 1.0": with_line(b"Transfer-Encoding: chunked", b"POST / HTTP/1.0"),
    "a folded line": with_line(b"X: a\r\n b"),
    "a bare LF": b"GET / HTTP/1.1\nHost: localhost\n\n",
    "a bare LF further down": with_line(b"X: a\nY: b"),
    "a bare CR": with_line(b"X: a\rY: b"),
    "NUL": with_line(b"X: a\0b"),
    "a space before the colon": with_line(b"Content-Length : 5"),
    "no colon": with_line(b"Content-Length"),
    "no name": with_line(b": 5"),
    "two spaces": with_line(b"X: a", b"GET  / HTTP/1.1"),
    "a space in the target": with_line(b"X: a", b"GET /a b HTTP/1.1"),
    "no version": b"GET /\r\n",
    "another version": with_line(b"X: a", b"GET / HTTP/1.2"),
    "HTTP/2 as a version": with_line(b"X: a", b"GET / HTTP/2.0"),
    "a head that is too long": long_head(framing.HEAD_LIMIT + 1),
    "a first line that never ends": b"A" * (framing.HEAD_LIMIT + 1),
    "a signed chunk": CHUNKS + b"+5\r\nhello\r\n",
    "a hexadecimal prefix": CHUNKS + b"0x5\r\nhello\r\n",
    "a chunk's size with a blank": CHUNKS + b"5 \r\nhello\r\n",
    "a chunk's extension with a bare LF": CHUNKS + b"5;a\nhello\r\n",
    "a chunk that is longer": CHUNKS + b"5\r\nhello!\r\n",
    "a folded trailer": CHUNKS + b"0\r\nX: a\r\n b\r\n\r\n",
    "websocket with a body": with_line(b"Upgrade: websocket\r\nContent-Length: 5"),
    "CONNECT with a body": with_line(b"Content-Length: 5", b"CONNECT localhost HTTP/1.1"),
    "another protocol in the middle": GET + b"\x16\x03\x01",
    "HTTP/2 in the middle": GET + b"PRI * HTTP/2.0\r\n\r\nSM",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_what_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    last = data + b"GET /last HTTP/1.1\r\n\r\n"
    for pieces in ([last], bytewise(last)):
        passed, reader = read(*pieces)
        assert reader.refusal is not None
        assert (reader.refusal.status, reader.refusal.code) == (400, "bad_request")
        assert b"/last" not in passed


@pytest.mark.parametrize("before", [GET, POST, CHUNKED, UPGRADE, GET + POST], ids=len)
def test_every_request_of_a_connection_is_judged(before: bytes) -> None:
    for pieces in ([before + EVIL + GET], [before, EVIL, GET], bytewise(before + EVIL + GET)):
        passed, reader = read(*pieces)
        assert passed == before
        assert reader.refusal == NO


# --- at random ------------------------------------------------------------------------------------------------------

PARTS = st.sampled_from(
    [*(data for data, _ in GOOD.values()), *OTHER.values(), *BAD.values(), EVIL, b"\r\n", b" HTTP/", b"0\r\n"]
)
STREAMS = st.one_of(
    st.binary(max_size=300), st.lists(PARTS | st.binary(max_size=5), max_size=6).map(b"".join)
)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
def test_how_the_bytes_are_cut_changes_no_verdict(data: bytes, cuts: list[int]) -> None:
    """And no byte: only of a request that is refused may the beginning of its first line have passed."""
    whole, at_once = read(data)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    passed, in_pieces = read(*(data[a:b] for a, b in itertools.pairwise(edges)))
    assert in_pieces.refusal == at_once.refusal
    assert in_pieces.accepted == at_once.accepted
    if at_once.refusal is None:
        assert passed + in_pieces.eof() == whole + at_once.eof()
    else:
        assert passed.startswith(whole)
        assert b"\n" not in passed[len(whole) :].lstrip(b"\r\n")
    assert data.startswith(passed)

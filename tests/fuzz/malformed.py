"""Requests that are not HTTP, or only just: made from a seed, one family after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

GENERATE = json.dumps({"prompt": "hello", "max_tokens": 2}).encode()
STREAM = json.dumps({"prompt": "hello", "max_tokens": 8, "stream": True}).encode()
PATHS = (b"/health", b"/v1/models", b"/v1/completions", b"/v1/messages", b"/tokenize", b"/cache")
HOST = b"Host: localhost\r\n"


@dataclass(frozen=True)
class Malformed:
    """What is written, piece by piece, and whether the connection is then cut off."""

    family: str
    pieces: tuple[bytes, ...]
    cut: bool = False


def malformed(random: Random, number: int) -> Malformed:
    """The next one; all families come in turn."""
    family = FAMILIES[number % len(FAMILIES)]
    made = family(random)
    if isinstance(made, bytes):
        return Malformed(family.__name__, (made,), cut=random.random() < 0.1)
    return made


def post(body: bytes, *headers: bytes, path: bytes = b"/v1/completions") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + lines + b"\r\n" + body


def sized(body: bytes, *headers: bytes) -> bytes:
    return post(body, b"Content-Length: %d" % len(body), *headers)


def junk(random: Random, most: int = 40) -> bytes:
    return random.randbytes(random.randint(1, most))


# --- the first line ----------------------------------------------------------------------------


def request_lines(random: Random) -> bytes:
    line = random.choice(
        (
            b"",
            b" ",
            b"GET",
            b"GET /health",
            b"GET  /health  HTTP/1.1",
            b"GET\t/health\tHTTP/1.1",
            b"get /health HTTP/1.1",
            b"G\x00T /health HTTP/1.1",
            b"/health GET HTTP/1.1",
            b"GET /health HTTP/1.1 HTTP/1.1",
            b"GET /health HTTP/1.1\r",
            b"GET /he\x00alth HTTP/1.1",
            b"GET /he\xffalth HTTP/1.1",
            b"GET " + junk(random) + b" HTTP/1.1",
            junk(random, 200),
            b"X" * random.randint(1, 20_000),
        )
    )
    return line + b"\r\n" + HOST + b"\r\n"


def versions(random: Random) -> bytes:
    version = random.choice(
        b"HTTP/0.9 HTTP/1.0 HTTP/2.0 HTTP/9.9 HTTP/1.1.1 HTTP/-1.1 HTTP/1 HTTP/999999999999.1"
        b" http/1.1 HTTP/1,1 ICY/1.1 1.1 HTTP/".split()
    )
    return b"GET " + random.choice(PATHS) + b" " + version + b"\r\n" + HOST + b"\r\n"


def targets(random: Random) -> bytes:
    target = random.choice(
        (
            b"http://localhost/health",
            b"http://elsewhere.example:9/v1/models",
            b"https:///health",
            b"http://[::1/health",
            b"http://a:b@c:99999/health",
            b"*",
            b"//health",
            b"//elsewhere.example/health",
            b"/../../../../etc/passwd",
            b"/%2e%2e/%2e%2e/etc/passwd",
            b"/v1/%2e%2e/admin/reload%00",
            b"/v1/models/%00",
            b"/v1/models/..%2f..%2fetc%2fpasswd",
            b"/v1/models/%ff%fe%zz",
            b"/health#fragment",
            b"/cache?model=%00&model=%ff&" + b"a=1&" * random.randint(1, 1000),
            b"/" + b"v1/" * random.randint(1, 2000) + b"health",
            b"?", b"#", b"%", b"health", b"/%",
        )
    )  # fmt: skip
    method = random.choice((b"GET", b"POST", b"DELETE", b"OPTIONS", b"HEAD", b"TRACE"))
    return method + b" " + target + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n"


def methods(random: Random) -> bytes:
    line = random.choice(
        (
            b"CONNECT localhost:443 HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"TRACE /health HTTP/1.1",
            b"PATCH /v1/completions HTTP/1.1",
            b"HEAD /health HTTP/1.1",
            b"\xc3\xa9 /health HTTP/1.1",
            b"A" * random.randint(1, 9000) + b" /health HTTP/1.1",
        )
    )
    upgrade = random.choice(
        (
            b"",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
            b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
        )
    )
    return line + b"\r\n" + HOST + upgrade + b"\r\n" + junk(random)


def other_protocols(random: Random) -> bytes:
    return random.choice(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(200),
            b"\x80\x2e\x01\x00\x02" + random.randbytes(40),
            b"SSH-2.0-OpenSSH_9.9\r\n",
            b"EHLO localhost\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x00" * random.randint(1, 5000),
            b"\r\n" * random.randint(1, 5000),
            random.randbytes(random.randint(1, 5000)),
        )
    )


# --- headers -------------------------------------------------------------------------------------


def headers(random: Random) -> bytes:
    header = random.choice(
        (
            b"NoColon",
            b": no name",
            b"Name : space before the colon",
            b" Leading: space",
            b"Obs: folded\r\n  further\r\n\tand further",
            b"Nul: a\x00b",
            b"Bare: a\rb",
            b"Bare: a\nInjected: b",
            b"Na\xffme: x",
            b"Name: \xff\xfe\x80",
            b"X-Request-Id: " + junk(random, 300).replace(b"\r", b"").replace(b"\n", b""),
            b"X-Session-Id: \r\n X: y",
            b"X: " + b"x" * random.randint(1, 20_000),
            b"\r\n".join(b"X%d: y" % i for i in range(random.randint(1, 400))),
            b"Host: second.example",
            b"Host: a b\r\nHost: \x00",
            b"Connection: close, keep-alive, upgrade",
            b"Content-Type: text/html; charset=" + b"x" * 3000,
            b"Content-Encoding: " + random.choice((b"gzip", b"br", b"zstd", b"deflate", b"x")),
            b"Accept-Encoding: \x01",
            b"Cookie: " + b"a=b;" * 1500,
            b"Authorization: Bearer \xff",
            b"Expect: 100-continue",
            b"Expect: 200-ok",
            b"Range: bytes=0-0,-1",
        )
    )
    return sized(GENERATE, header)


# --- bodies: how long, and in how many pieces --------------------------------------------------


def lengths(random: Random) -> bytes:
    said = random.choice(
        b"-1|+5|0x10|1e3|5 5|5,5|| |five|\xd9\xa5|99999999999999999999999999|18446744073709551616"
        b"|00000000000000000000005|1073741824|7|36|37".split(b"|")
    )
    more = (b"Content-Length: 3",) if random.random() < 0.3 else ()
    return post(GENERATE, b"Content-Length: " + said, *more)


def smuggled(random: Random) -> bytes:
    """Two lengths for one body, and a request hidden in the difference."""
    coding = random.choice(
        b"chunked|Chunked| chunked|chunked, identity|identity, chunked|xchunked|\x0bchunked|gzip"
        b"|chunked\r\nTransfer-Encoding: identity|identity".split(b"|")
    )
    hidden = b"GET /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"
    body = random.choice((b"0\r\n\r\n" + hidden, b"5\r\nhello\r\n0\r\n\r\n" + hidden, hidden))
    length = b"Content-Length: %d" % random.choice((0, 4, 5, len(body)))
    return post(body, *random.sample((length, b"Transfer-Encoding: " + coding), 2))


def chunks(random: Random) -> bytes:
    size = b"%x" % len(GENERATE)
    body = random.choice(
        (
            b"zz\r\n" + GENERATE,
            b"-1\r\n" + GENERATE,
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"ffffffffffffffffff\r\n" + GENERATE,
            b"ffffffff\r\n" + GENERATE,
            size + b"\n" + GENERATE + b"\n0\n\n",
            size + b"\r\n" + GENERATE + b"XX0\r\n\r\n",
            size + b";" + b"x" * random.randint(1, 9000) + b"\r\n" + GENERATE + b"\r\n0\r\n\r\n",
            size + b"\r\n" + GENERATE + b"\r\n0\r\nTrailer: x\r\n" * 200 + b"\r\n",
            size + b"\r\n" + GENERATE + b"\r\n0\r\nBad Trailer\r\n\r\n",
            size + b"\r\n" + GENERATE + b"\r\n",
            size + b"\r\n" + GENERATE[:-3],
            b"1\r\nx\r\n" * random.randint(1, 3000),
            b"\r\n\r\n",
            junk(random, 200),
        )
    )
    return post(body, b"Transfer-Encoding: chunked")


def expectations(random: Random) -> bytes:
    return post(
        random.choice((b"", GENERATE, junk(random))),
        b"Expect: " + random.choice((b"100-continue", b"100-Continue, x", b"200-ok", b"\xff", b"")),
        b"Content-Length: %d" % len(GENERATE),
    )


# --- several requests, and those that stop in the middle ---------------------------------------


def pipelined(random: Random) -> bytes:
    good = b"GET " + random.choice(PATHS[:2]) + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    parts = [random.choice((good, good, sized(GENERATE), junk(random, 100))) for _ in range(8)]
    return b"".join(parts * random.choice((1, 1, 1, 10)))


def cut_off(random: Random) -> Malformed:
    """A sound request that ends early, at any byte, without a good-bye."""
    whole = sized(random.choice((GENERATE, STREAM)))
    at = random.randint(0, len(whole))
    return Malformed("cut_off", (whole[:at],), cut=True)


def dripped(random: Random) -> Malformed:
    """A few bytes at a time; many are not complete when the node loses its patience."""
    whole = random.choice((sized(GENERATE), headers(random)))[: random.randint(20, 400)]
    step = random.randint(1, 9)
    pieces = tuple(whole[i : i + step] for i in range(0, len(whole), step))
    return Malformed("dripped", pieces, cut=random.random() < 0.3)


def flipped(random: Random) -> bytes:
    """A sound request with a few bytes that are others."""
    data = bytearray(sized(random.choice((GENERATE, STREAM)), b"X-Request-Id: x"))
    for _ in range(random.randint(1, 4)):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


FAMILIES: tuple[Callable[[Random], bytes | Malformed], ...] = (
    request_lines,
    versions,
    targets,
    methods,
    other_protocols,
    headers,
    lengths,
    smuggled,
    chunks,
    expectations,
    pipelined,
    cut_off,
    dripped,
    flipped,
)

"""HTTP content encodings, piece by piece: what clickhouse-connect, curl and browsers negotiate."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable
from typing import Any, Protocol

import lz4.frame

from fqlstream.store.embedded.exceptions import (
    BAD_ARGUMENTS,
    CANNOT_PARSE_TEXT,
    NOT_IMPLEMENTED,
    REQUEST_TOO_LARGE,
    EngineError,
    refusal,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: Encodings of answers, cheapest first: on one machine the processor costs more than the wire.
ANSWERED = ("lz4", "zstd", "gzip", "deflate")


class Decoder(Protocol):
    """Undoes an encoding."""

    def decode(self, data: bytes) -> bytes:
        """Give what these bytes hold."""
        ...

    def finish(self) -> None:
        """Refuse a body that was cut short."""
        ...


class _Bounded:
    """A decoder that refuses to grow a small body without end."""

    def __init__(self, encoding: str, bytes_max: int) -> None:
        self._encoding = encoding
        self._left = bytes_max
        self._bytes_max = bytes_max
        self._engine: Any = _decompressor(encoding)
        self._started = False

    def decode(self, data: bytes) -> bytes:
        """Give what these bytes hold."""
        pieces = []
        self._started = self._started or bool(data)
        try:
            while data:
                if self._engine.eof:  # frames may follow each other
                    self._engine = _decompressor(self._encoding)
                # one byte more than is allowed: never unpack a bomb to find out that it is one
                piece = self._engine.decompress(data, self._left + 1)
                self._left -= len(piece)
                if self._left < 0:
                    raise too_large(self._bytes_max)
                pieces.append(piece)
                data = self._engine.unused_data or b"" if self._engine.eof else b""
        except (RuntimeError, zlib.error, zstd.ZstdError, EOFError) as error:
            raise refusal(CANNOT_PARSE_TEXT, f"The body is no {self._encoding}: {error}") from None
        return b"".join(pieces)

    def finish(self) -> None:
        """Refuse a body that was cut short."""
        if self._started and not self._engine.eof:
            raise refusal(CANNOT_PARSE_TEXT, f"The {self._encoding} body ends too early")


class _Plain:
    def decode(self, data: bytes) -> bytes:
        """Give the bytes."""
        return data

    def finish(self) -> None:
        """Nothing can be missing."""


def too_large(bytes_max: int) -> EngineError:
    """Make the refusal of a body beyond the limit."""
    return refusal(
        REQUEST_TOO_LARGE,
        f"The request is larger than {bytes_max} bytes: send it in parts, or raise FQLSTREAM_STORE__BODY_BYTES_MAX",
    )


def decoder(encoding: str, bytes_max: int) -> Decoder:
    """Give the decoder of a Content-Encoding; its output is bounded."""
    if encoding in ("", "identity"):
        return _Plain()
    if encoding not in ANSWERED:
        raise refusal(
            NOT_IMPLEMENTED, f"Unknown compression method {encoding!r}: this store takes {', '.join(ANSWERED)}"
        )
    return _Bounded(encoding, bytes_max)


def _decompressor(encoding: str) -> Any:
    match encoding:
        case "lz4":
            return lz4.frame.LZ4FrameDecompressor()
        case "zstd":
            return zstd.ZstdDecompressor()
        case "gzip":
            return zlib.decompressobj(31)
        case "deflate":
            return zlib.decompressobj()
    raise refusal(BAD_ARGUMENTS, f"Unknown compression method {encoding!r}")


def choose(accepted: str) -> str | None:
    """Choose the encoding of an answer from an Accept-Encoding header; None leaves it plain."""
    named: dict[str, float] = {}
    for item in accepted.lower().split(","):
        name, _, weight = item.strip().partition(";")
        try:
            named[name.strip()] = float(weight.partition("=")[2]) if "q=" in weight else 1.0
        except ValueError:
            named[name.strip()] = 1.0
    return next((name for name in ANSWERED if named.get(name, 0.0) > 0), None)


class Encoder:
    """Applies an encoding to an answer, piece by piece."""

    def __init__(self, encoding: str) -> None:
        self._first = b""
        match encoding:
            case "lz4":
                compressor = lz4.frame.LZ4FrameCompressor(auto_flush=True)
                self._first = compressor.begin()
                self._engine: Any = compressor
            case "zstd":
                self._engine = zstd.ZstdCompressor(level=1)
            case "gzip":
                self._engine = zlib.compressobj(1, zlib.DEFLATED, 31)
            case _:
                self._engine = zlib.compressobj(1)

    def encode(self, data: bytes) -> bytes:
        """Give the next bytes of the answer."""
        first, self._first = self._first, b""
        return first + bytes(self._engine.compress(data))

    def finish(self) -> bytes:
        """Give the last bytes of the answer."""
        first, self._first = self._first, b""
        return first + bytes(self._engine.flush())

    def whole(self, pieces: Iterable[bytes]) -> bytes:
        """Encode an answer that is there at once."""
        return b"".join([*(self.encode(piece) for piece in pieces), self.finish()])

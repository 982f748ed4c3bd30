"""Encodings of bodies, piece by piece: HTTP's content encodings, and ClickHouse's own blocks (compress=1, decompress=1)."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Iterable
from typing import Any, Protocol

import lz4.block
import lz4.frame
from clickhouse_cityhash.cityhash import CityHash128

from fqlstream.store.embedded.exceptions import (
    CANNOT_PARSE_TEXT,
    CHECKSUM_DOESNT_MATCH,
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
#: Uncompressed bytes of a block of ours; ClickHouse's own default.
_BLOCK_BYTES = 1 << 20
_BLOCK_HEAD = struct.Struct("<BII")
_CHECKSUM_BYTES = 16
_LZ4, _ZSTD, _NONE = 0x82, 0x90, 0x02


class Decoder(Protocol):
    """Undoes an encoding."""

    def decode(self, data: bytes) -> bytes:
        """Give what these bytes hold."""
        ...

    def finish(self) -> None:
        """Refuse a body that was cut short."""
        ...


class Encoder(Protocol):
    """Applies an encoding to an answer, piece by piece."""

    def encode(self, data: bytes) -> bytes:
        """Give the next bytes of the answer."""
        ...

    def finish(self) -> bytes:
        """Give the last bytes of the answer."""
        ...

    def whole(self, pieces: Iterable[bytes]) -> bytes:
        """Encode an answer that is there at once."""
        ...


def too_large(bytes_max: int) -> EngineError:
    """Make the refusal of a body beyond the limit."""
    return refusal(
        REQUEST_TOO_LARGE,
        f"The request is larger than {bytes_max} bytes: send it in parts, or raise FQLSTREAM_STORE__BODY_BYTES_MAX",
    )


def body_decoder(encoding: str, bytes_max: int, *, native: bool) -> Decoder:
    """Give the decoder of a body: of its Content-Encoding, and inside that of ClickHouse's blocks. Its output is bounded."""
    decoders: list[Decoder] = []
    if encoding not in ("", "identity"):
        if encoding not in ANSWERED:
            raise refusal(
                NOT_IMPLEMENTED, f"Unknown compression method {encoding!r}: this store takes {', '.join(ANSWERED)}"
            )
        decoders.append(_Content(encoding, bytes_max))
    if native:
        decoders.append(_Blocks(bytes_max))
    return _Chain(decoders)


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


def encoder(name: str) -> Encoder:
    """Give the encoder of an answer; `native` are ClickHouse's own blocks."""
    return _BlockEncoder() if name == "native" else _ContentEncoder(name)


class _Chain:
    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def decode(self, data: bytes) -> bytes:
        for item in self._decoders:
            data = item.decode(data)
        return data

    def finish(self) -> None:
        for item in self._decoders:
            item.finish()


class _Content:
    """A content encoding; refuses to grow a small body without end."""

    def __init__(self, encoding: str, bytes_max: int) -> None:
        self._encoding = encoding
        self._left = bytes_max
        self._bytes_max = bytes_max
        self._engine: Any = _decompressor(encoding)
        self._started = False

    def decode(self, data: bytes) -> bytes:
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
        if self._started and not self._engine.eof:
            raise refusal(CANNOT_PARSE_TEXT, f"The {self._encoding} body ends too early")


def _decompressor(encoding: str) -> Any:
    match encoding:
        case "lz4":
            return lz4.frame.LZ4FrameDecompressor()
        case "zstd":
            return zstd.ZstdDecompressor()
        case "gzip":
            return zlib.decompressobj(31)
        case _:
            return zlib.decompressobj()


class _ContentEncoder:
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
        first, self._first = self._first, b""
        return first + bytes(self._engine.compress(data))

    def finish(self) -> bytes:
        first, self._first = self._first, b""
        return first + bytes(self._engine.flush())

    def whole(self, pieces: Iterable[bytes]) -> bytes:
        return b"".join([*(self.encode(piece) for piece in pieces), self.finish()])


class _BlockEncoder:
    """ClickHouse's blocks: checksum, method, sizes, LZ4."""

    def encode(self, data: bytes) -> bytes:
        return b"".join([_block(data[at : at + _BLOCK_BYTES]) for at in range(0, len(data), _BLOCK_BYTES)])

    def finish(self) -> bytes:
        return b""

    def whole(self, pieces: Iterable[bytes]) -> bytes:
        return self.encode(b"".join(pieces))


def _block(data: bytes) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False)
    body = _BLOCK_HEAD.pack(_LZ4, len(packed) + _BLOCK_HEAD.size, len(data)) + packed
    return _checksum(body) + body


def _checksum(body: bytes) -> bytes:
    number: int = CityHash128(body)
    # the hash is a pair of 64-bit numbers, the first of which is the high one here
    return (number >> 64).to_bytes(8, "little") + (number & (1 << 64) - 1).to_bytes(8, "little")


class _Blocks:
    def __init__(self, bytes_max: int) -> None:
        self._held = b""
        self._left = bytes_max
        self._bytes_max = bytes_max

    def decode(self, data: bytes) -> bytes:
        self._held += data
        pieces = []
        at = 0
        while len(self._held) - at >= _CHECKSUM_BYTES + _BLOCK_HEAD.size:
            method, packed_size, size = _BLOCK_HEAD.unpack_from(self._held, at + _CHECKSUM_BYTES)
            self._spend(packed_size, size)
            end = at + _CHECKSUM_BYTES + packed_size
            if len(self._held) < end:
                break
            body = self._held[at + _CHECKSUM_BYTES : end]
            if _checksum(body) != self._held[at : at + _CHECKSUM_BYTES]:
                raise refusal(CHECKSUM_DOESNT_MATCH, "Checksum doesn't match: corrupted data in a compressed block")
            pieces.append(_unpacked(method, body[_BLOCK_HEAD.size :], size))
            self._left -= size
            at = end
        self._held = self._held[at:]
        return b"".join(pieces)

    def _spend(self, packed_size: int, size: int) -> None:
        if packed_size < _BLOCK_HEAD.size:
            raise refusal(CANNOT_PARSE_TEXT, "The body holds no compressed blocks of ClickHouse")
        if max(size, packed_size) > self._left:
            raise too_large(self._bytes_max)

    def finish(self) -> None:
        if self._held:
            raise refusal(CANNOT_PARSE_TEXT, "The compressed body ends too early")


def _unpacked(method: int, data: bytes, size: int) -> bytes:
    try:
        match method:
            case _ if method == _LZ4:
                return bytes(lz4.block.decompress(data, uncompressed_size=size))
            case _ if method == _ZSTD:
                return bytes(zstd.decompress(data))
            case _ if method == _NONE:
                return data
    except (lz4.block.LZ4BlockError, zstd.ZstdError) as error:
        raise refusal(CANNOT_PARSE_TEXT, f"A compressed block does not unpack: {error}") from None
    raise refusal(NOT_IMPLEMENTED, f"Unknown compression method {method:#x}: blocks are LZ4, ZSTD or not compressed")

from __future__ import annotations

import gzip
import zlib

import lz4.frame
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from fqlstream.store.embedded.compression import body_decoder, choose, encoder
from fqlstream.store.embedded.exceptions import EngineError

PACKED = {"lz4": lz4.frame.compress, "zstd": zstd.compress, "gzip": gzip.compress, "deflate": zlib.compress}
UNPACKED = {"lz4": lz4.frame.decompress, "zstd": zstd.decompress, "gzip": gzip.decompress, "deflate": zlib.decompress}


def decoded(encoding: str, pieces: list[bytes], bytes_max: int = 1 << 20, *, native: bool = False) -> bytes:
    decoder = body_decoder(encoding, bytes_max, native=native)
    found = b"".join(decoder.decode(piece) for piece in pieces)
    decoder.finish()
    return found


@pytest.mark.parametrize("encoding", PACKED)
@settings(deadline=None)
@given(data=st.binary(max_size=2000), cut=st.integers(1, 400), frames=st.integers(1, 3))
def test_bodies_are_unpacked_wherever_they_are_cut(encoding: str, data: bytes, cut: int, frames: int) -> None:
    body = PACKED[encoding](data) * frames
    pieces = [body[at : at + cut] for at in range(0, len(body), cut)]

    assert decoded(encoding, pieces) == data * frames


@pytest.mark.parametrize("encoding", PACKED)
def test_a_body_cut_short_is_refused(encoding: str) -> None:
    with pytest.raises(EngineError) as caught:
        decoded(encoding, [PACKED[encoding](b"x" * 1000)[:-5]])
    assert caught.value.status == 400


@pytest.mark.parametrize("encoding", PACKED)
def test_a_bomb_is_not_unpacked(encoding: str) -> None:
    with pytest.raises(EngineError) as caught:
        decoded(encoding, [PACKED[encoding](b"\0" * (64 << 20))], bytes_max=1 << 20)
    assert caught.value.status == 413


def test_noise_is_refused() -> None:
    for encoding in PACKED:
        with pytest.raises(EngineError):
            decoded(encoding, [b"\x01\x02noise, noise, noise"])


@pytest.mark.parametrize("encoding", PACKED)
@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=500), max_size=5))
def test_answers_unpack(encoding: str, pieces: list[bytes]) -> None:
    one = encoder(encoding)
    streamed = b"".join(one.encode(piece) for piece in pieces) + one.finish()

    assert UNPACKED[encoding](streamed) == b"".join(pieces)
    assert UNPACKED[encoding](encoder(encoding).whole(pieces)) == b"".join(pieces)


@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=3000), max_size=5), cut=st.integers(1, 500))
def test_blocks_make_the_round_trip(pieces: list[bytes], cut: int) -> None:
    body = encoder("native").whole(pieces)

    assert decoded("", [body[at : at + cut] for at in range(0, len(body), cut)], native=True) == b"".join(pieces)


def test_broken_blocks_are_refused() -> None:
    body = bytearray(encoder("native").whole([b"x" * 1000]))
    for bad in (bytes(body[:-1]), bytes(body[:10]), bytes([*body[:30], body[30] ^ 1, *body[31:]]), b"\0" * 40):
        with pytest.raises(EngineError):
            decoded("", [bad], native=True)


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("", None), ("gzip", "gzip"), ("lz4,zstd,br,gzip,deflate", "lz4"), ("br", None), ("gzip;q=0", None), ("zstd;q=0.5, gzip;q=1", "zstd"), ("*", None), ("gzip;q=x", "gzip")],
)  # fmt: skip
def test_the_encoding_is_one_that_the_client_takes(accepted: str, chosen: str | None) -> None:
    assert choose(accepted) == chosen

"""A fatal error as librdkafka itself raises it: its own call for tests needs no broker."""

from __future__ import annotations

import ctypes
from typing import Final

from confluent_kafka import KafkaError, Producer, cimpl

#: Names of the library that the extension is linked with are found through the extension.
_LIBRARY: Final = ctypes.CDLL(cimpl.__file__)
_LIBRARY.rd_kafka_test_fatal_error.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)


def raise_fatal_error(producer: Producer) -> None:
    """Let a producer meet a sequence of records that Kafka does not know."""
    # the extension's object begins with what every Python object has, then comes the library's handle
    handle = ctypes.c_void_p.from_address(id(producer) + object.__basicsize__).value
    _LIBRARY.rd_kafka_test_fatal_error(handle, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, b"unknown sequence")

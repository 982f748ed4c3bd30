"""Kafka's options live with the client, the lowest part that speaks to a broker; here for the parts above it."""

from fqlstream.client.kafka_options import (
    CLIENT_ID,
    RECORD_BYTES_ANY,
    RECORD_OVERHEAD_BYTES,
    aiokafka_options,
    bootstrap,
    librdkafka_options,
    masked,
    producer_options,
)

__all__ = [
    "CLIENT_ID",
    "RECORD_BYTES_ANY",
    "RECORD_OVERHEAD_BYTES",
    "aiokafka_options",
    "bootstrap",
    "librdkafka_options",
    "masked",
    "producer_options",
]

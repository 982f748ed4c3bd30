"""One block of Kafka settings, said in the words of librdkafka and of aiokafka."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from typing import Any, Final

from fqlstream.errors import BrokerError
from fqlstream.settings import KafkaSettings

CLIENT_ID: Final = "fqlstream"
#: A record may carry headers and a key beside its value; a dead letter carries the original bytes and more headers.
RECORD_OVERHEAD_BYTES: Final = 2**20
#: librdkafka's own maximum. It measures a record before compression, the broker afterwards: what the broker would take must not
#: fail here. For whoever sends on what a broker has taken once.
RECORD_BYTES_ANY: Final = 1_000_000_000
_SECRETS: Final = frozenset({"sasl.password", "sasl_plain_password", "ssl.key.password"})
_LOG = logging.getLogger("fqlstream.kafka")


def bootstrap(settings: KafkaSettings) -> str:
    """Give the brokers' addresses.

    Raises BrokerError where the settings name none.
    """
    if not settings.bootstrap:
        raise BrokerError(
            "KFK001",
            "no Kafka broker is named",
            "start a local stack with `fqlstream up`, or set FQLSTREAM_KAFKA__BOOTSTRAP=host:port",
        )
    return settings.bootstrap


def librdkafka_options(settings: KafkaSettings, **extra: Any) -> dict[str, Any]:
    """Give the configuration of any confluent-kafka client; `extra` takes librdkafka names with `_` for `.`.

    Print it only through `masked`: it holds the password. Raises BrokerError where the settings name no broker.
    """
    options: dict[str, Any] = {
        "bootstrap.servers": bootstrap(settings),
        "client.id": CLIENT_ID,
        "security.protocol": settings.security_protocol,
        "socket.timeout.ms": settings.request_timeout_ms,
        "sasl.mechanisms": settings.sasl_mechanism,
        "sasl.username": settings.sasl_username,
        "sasl.password": settings.sasl_password.get_secret_value() if settings.sasl_password else None,
        "ssl.ca.location": str(settings.ssl_ca_file) if settings.ssl_ca_file else None,
        "ssl.certificate.location": str(settings.ssl_certificate_file) if settings.ssl_certificate_file else None,
        "ssl.key.location": str(settings.ssl_key_file) if settings.ssl_key_file else None,
        # librdkafka writes to stderr by itself otherwise, in the middle of what a command prints
        "logger": _LOG,
        **{name.replace("_", "."): value for name, value in extra.items()},
    }
    return {name: value for name, value in options.items() if value is not None}


def producer_options(settings: KafkaSettings, **extra: Any) -> dict[str, Any]:
    """Give the configuration of a producer that loses and repeats nothing, and partitions as Kafka's own clients do."""
    return librdkafka_options(
        settings,
        **{
            "enable_idempotence": True,
            "partitioner": "murmur2_random",
            "message_max_bytes": settings.record_bytes_max + RECORD_OVERHEAD_BYTES,
            "compression_type": "lz4",
            **extra,
        },
    )


def aiokafka_options(settings: KafkaSettings) -> dict[str, Any]:
    """Give the keyword arguments that every aiokafka client takes.

    Print it only through `masked`: it holds the password. Raises BrokerError where the settings name no broker.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap(settings),
        "client_id": CLIENT_ID,
        "security_protocol": settings.security_protocol,
        "request_timeout_ms": settings.request_timeout_ms,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": settings.sasl_password.get_secret_value() if settings.sasl_password else None,
        "ssl_context": _ssl_context(settings) if settings.security_protocol in {"SSL", "SASL_SSL"} else None,
    }
    return {name: value for name, value in options.items() if value is not None}


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ssl_ca_file)
        if settings.ssl_certificate_file is not None:
            context.load_cert_chain(settings.ssl_certificate_file, settings.ssl_key_file)
    except (OSError, ssl.SSLError) as error:
        raise BrokerError(
            "KFK002",
            f"the TLS files of the Kafka settings cannot be read: {error}",
            "FQLSTREAM_KAFKA__SSL_CA_FILE, __SSL_CERTIFICATE_FILE and __SSL_KEY_FILE name PEM files",
        ) from error
    return context


def masked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options as they may be printed."""
    return {name: "********" if name in _SECRETS else value for name, value in options.items()}

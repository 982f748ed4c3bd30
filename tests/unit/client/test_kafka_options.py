from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from fqlstream.client.kafka_options import aiokafka_options, librdkafka_options, masked, producer_options
from fqlstream.errors import BrokerError
from fqlstream.settings import KafkaSettings

PLAIN = KafkaSettings(bootstrap="a:1,b:2")
SECRET = KafkaSettings(
    bootstrap="a:1", security_protocol="SASL_PLAINTEXT", sasl_mechanism="SCRAM-SHA-256", sasl_username="u",
    sasl_password=SecretStr("swordfish"),
)  # fmt: skip


def test_one_block_is_said_in_the_words_of_both_libraries() -> None:
    ours, theirs = librdkafka_options(SECRET), aiokafka_options(SECRET)
    pairs = {
        "bootstrap.servers": "bootstrap_servers",
        "security.protocol": "security_protocol",
        "sasl.mechanisms": "sasl_mechanism",
        "sasl.username": "sasl_plain_username",
        "sasl.password": "sasl_plain_password",
        "client.id": "client_id",
    }
    assert {name: ours[name] for name in pairs} == {name: theirs[other] for name, other in pairs.items()}
    assert ours["sasl.password"] == "swordfish"


def test_what_is_not_set_is_left_to_the_libraries() -> None:
    assert not [name for name in librdkafka_options(PLAIN) if name.startswith(("sasl", "ssl"))]
    assert not [name for name in aiokafka_options(PLAIN) if name.startswith(("sasl", "ssl"))]


def test_no_secret_is_in_what_may_be_printed() -> None:
    for options in (librdkafka_options(SECRET), aiokafka_options(SECRET)):
        assert "swordfish" not in repr(masked(options))
        assert masked(options).keys() == options.keys()
    assert "swordfish" not in repr(SECRET)


def test_a_producer_loses_and_repeats_nothing_and_partitions_as_kafkas_own_clients_do() -> None:
    options = producer_options(PLAIN, linger_ms=7)
    assert options["enable.idempotence"] is True
    assert options["partitioner"] == "murmur2_random"
    assert options["message.max.bytes"] > PLAIN.record_bytes_max
    assert options["linger.ms"] == 7
    assert producer_options(PLAIN, compression_type="zstd")["compression.type"] == "zstd"


def test_without_a_broker_it_says_how_to_get_one() -> None:
    for options_of in (librdkafka_options, aiokafka_options):
        with pytest.raises(BrokerError) as caught:
            options_of(KafkaSettings())
        assert caught.value.code == "KFK001"
        assert "fqlstream up" in (caught.value.hint or "")


def test_tls_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for file in (broken, tmp_path / "nowhere.pem"):
        settings = KafkaSettings(bootstrap="a:1", security_protocol="SSL", ssl_ca_file=file)
        with pytest.raises(BrokerError) as caught:
            aiokafka_options(settings)
        assert caught.value.code == "KFK002"
        assert librdkafka_options(settings)["ssl.ca.location"] == str(file)

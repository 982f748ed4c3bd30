"""Which topic a name means: a topic that was deleted and made again starts at offset 0 under another id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from fqlstream.errors import BrokerError
from fqlstream.ops.kafka_options import librdkafka_options
from fqlstream.settings import KafkaSettings


def topic_ids(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, str]:
    """Ask the cluster for the ids of the topics, as Kafka's tools print them; a topic that does not exist is left out.

    Blocks for `kafka.request_timeout_ms` at most. Raises BrokerError where the cluster does not answer or refuses.
    """
    if not topics:
        return {}
    return {name: str(found.topic_id) for name, found in _describe(settings, topics).items()}


def partitions_count(settings: KafkaSettings, topic: str) -> int:
    """Ask the cluster how many partitions a topic has.

    Blocks for `kafka.request_timeout_ms` at most. Raises BrokerError where the topic does not exist or nobody answers.
    """
    found = _describe(settings, [topic])
    if topic not in found:
        raise BrokerError("KFK121", f"the topic {topic} does not exist", "make it: fqlstream topics apply")
    return len(found[topic].partitions)


def _describe(settings: KafkaSettings, topics: Sequence[str]) -> dict[str, Any]:
    """Describe the topics that exist."""
    admin = AdminClient(librdkafka_options(settings))
    timeout_s = settings.request_timeout_ms / 1000
    answers = admin.describe_topics(TopicCollection(list(topics)), request_timeout=timeout_s)
    found = {}
    for name, answer in answers.items():
        try:
            found[name] = answer.result(timeout_s)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise _unanswered(name, error.args[0].str()) from error
        except TimeoutError as error:
            raise _unanswered(name, "no answer") from error
    return found


def _unanswered(topic: str, reason: str) -> BrokerError:
    return BrokerError(
        "KFK120",
        f"the id of topic {topic} cannot be had: {reason}",
        "the worker needs it to notice a topic that was deleted and made again; is the broker up, and Describe allowed?",
    )

"""Which of the errors that librdkafka reports may pass by themselves: one table for all that ask it something."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

from fqlstream.errors import BrokerError

#: What is no topic, by the broker's word. librdkafka's own words for it also mean that it has not asked yet.
NO_SUCH_TOPIC: Final = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART})
NOT_KNOWN_HERE: Final = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION})
#: What is no group: the newer protocol says so, the older one calls it dead.
NO_SUCH_GROUP: Final = frozenset({KafkaError.GROUP_ID_NOT_FOUND})
#: No broker can be reached.
AWAY: Final = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE})

#: A partition is between leaders, its leader has just started, or this client has not heard of it yet: over in a moment.
LEADERLESS: Final = NOT_KNOWN_HERE | {
    KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.ELIGIBLE_LEADERS_NOT_AVAILABLE, KafkaError.PREFERRED_LEADER_NOT_AVAILABLE,
}  # fmt: skip

#: Everything else is refused for good: permissions, sizes, versions, a fenced or broken producer.
PASSING: Final = LEADERLESS | {
    *AWAY,
    # or not in time
    KafkaError._TIMED_OUT, KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT_QUEUE, KafkaError._WAIT_COORD, KafkaError._WAIT_CACHE, KafkaError._RETRY, KafkaError._DESTROY_BROKER,
    KafkaError.REQUEST_TIMED_OUT, KafkaError.NETWORK_EXCEPTION, KafkaError.BROKER_NOT_AVAILABLE,
    # a coordinator or the controller moves
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_CONTROLLER,
    # too few replicas, a disk that is full or failing, a quota
    KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError._ISR_INSUFF,
    KafkaError.KAFKA_STORAGE_ERROR, KafkaError.THROTTLING_QUOTA_EXCEEDED,
}  # fmt: skip


def may_pass(error: KafkaError) -> bool:
    """Say whether the same request may succeed later, without anybody doing anything about us."""
    return error.code() in PASSING and not error.fatal()


def topic_trouble(topic: str, error: KafkaError, *, missing: str, failed: str, what: str, hint: str) -> BrokerError:
    """Give the error of a question about a topic: of code `missing` where there is no such topic, else `failed`, which says what."""
    if error.code() in NO_SUCH_TOPIC:
        return BrokerError(missing, f"the topic {topic} does not exist", "make it: fqlstream topics apply")
    return BrokerError(failed, f"{what}: {error.str()}", hint, retryable=may_pass(error))

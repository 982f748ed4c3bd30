"""Which of ClickHouse's errors pass by themselves, and which name a wrong key: the one table that decides.

Whatever is not here is refused for good: a statement, a table or a type that is wrong stays wrong, and a worker ends with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One error: ClickHouse's number and name for it, what it means for us, and what a person can do meanwhile."""

    code: int
    name: str
    verdict: Literal["passing", "access"]
    hint: str


_LOAD: Final = "ClickHouse is overloaded: fewer or cheaper queries, or more memory and threads"
_DISK: Final = "free space on ClickHouse's disk, or give it a larger one"
_REPLICAS: Final = "look after ClickHouse's replicas and its Keeper"
_UNSURE: Final = (
    "it is sent again, which changes nothing where it had worked; of replicas look after them and their Keeper"
)
_NETWORK: Final = "look after the network between ClickHouse's servers"
_WRITES: Final = "allow writes: a readonly setting or profile of the user, or a replica that lost its Keeper"
_ENDING: Final = "ClickHouse is going down or was told to end statements"
_MERGES: Final = "merges do not keep up: fewer other inserts, faster disks"
_KEY: Final = "give the store's key: --data DIR of a running stack, or FQLSTREAM_STORE__PASSWORD"


def _rows(verdict: Literal["passing", "access"], hint: str, *codes: tuple[int, str]) -> tuple[ErrorCode, ...]:
    return tuple(ErrorCode(code, name, verdict, hint) for code, name in codes)


ERROR_CODES: Final = (
    *_rows(
        "passing", _LOAD,
        (159, "TIMEOUT_EXCEEDED"), (160, "TOO_SLOW"), (173, "CANNOT_ALLOCATE_MEMORY"), (201, "QUOTA_EXCEEDED"),
        (202, "TOO_MANY_SIMULTANEOUS_QUERIES"), (241, "MEMORY_LIMIT_EXCEEDED"), (290, "LIMIT_EXCEEDED"),
        (364, "RECEIVED_ERROR_TOO_MANY_REQUESTS"), (425, "SYSTEM_ERROR"), (439, "CANNOT_SCHEDULE_TASK"),
        (473, "DEADLOCK_AVOIDED"), (745, "SERVER_OVERLOADED"),
    ),
    *_rows(
        "passing", _DISK,
        (74, "CANNOT_READ_FROM_FILE_DESCRIPTOR"), (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR"), (76, "CANNOT_OPEN_FILE"),
        (243, "NOT_ENOUGH_SPACE"), (499, "S3_ERROR"), (1001, "STD_EXCEPTION"),
    ),
    *_rows("passing", _WRITES, (164, "READONLY"), (242, "TABLE_IS_READ_ONLY")),
    *_rows("passing", _MERGES, (252, "TOO_MANY_PARTS"), (692, "TOO_MANY_MUTATIONS")),
    *_rows(
        "passing", _REPLICAS,
        (225, "NO_ZOOKEEPER"), (244, "UNEXPECTED_ZOOKEEPER_ERROR"), (254, "NO_ACTIVE_REPLICAS"), (265, "NO_AVAILABLE_REPLICA"),
        (285, "TOO_FEW_LIVE_REPLICAS"), (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE"), (289, "REPLICA_IS_NOT_IN_QUORUM"),
        (341, "UNFINISHED"), (342, "METADATA_MISMATCH"), (999, "KEEPER_EXCEPTION"),
    ),
    *_rows("passing", _UNSURE, (319, "UNKNOWN_STATUS_OF_INSERT")),
    *_rows(
        "passing", _NETWORK,
        (198, "DNS_ERROR"), (203, "NO_FREE_CONNECTION"), (209, "SOCKET_TIMEOUT"), (210, "NETWORK_ERROR"),
        (279, "ALL_CONNECTION_TRIES_FAILED"), (1000, "POCO_EXCEPTION"),
    ),
    *_rows(
        "passing", _ENDING,
        (236, "ABORTED"), (394, "QUERY_WAS_CANCELLED"), (733, "TABLE_IS_BEING_RESTARTED"),
    ),
    *_rows(
        "access", _KEY,
        (192, "UNKNOWN_USER"), (193, "WRONG_PASSWORD"), (194, "REQUIRED_PASSWORD"), (497, "ACCESS_DENIED"),
        (516, "AUTHENTICATION_FAILED"),
    ),
)  # fmt: skip

BY_CODE: Final = MappingProxyType({row.code: row for row in ERROR_CODES})

-- Whose events must not be kept any more: by digest, because keeping the ids would defeat the purpose.

CREATE TABLE IF NOT EXISTS deleted_ids (
    model LowCardinality(String),
    id_hash FixedString(32) COMMENT 'SHA-256 of the event_id: what history is searched for',
    high UInt64 COMMENT 'fingerprint of the event_id, as a worker knows its events',
    low UInt64,
    deleted_at DateTime64(3, 'UTC'),
    kept_until DateTime('UTC') COMMENT 'until then, records of this id are dropped as they come'
) ENGINE = ReplacingMergeTree(deleted_at) ORDER BY (model, id_hash)
TTL kept_until
COMMENT 'ids whose events and labels were deleted';

CREATE TABLE IF NOT EXISTS deletion_requests (
    partition Int32 COMMENT 'whose owner shall delete the rows of its partition',
    model String,
    id String,
    requested_at DateTime64(3, 'UTC'),
    finished_at Nullable(DateTime64(3, 'UTC')),
    step UInt8 COMMENT '0 asked for, 1 done',
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(step) ORDER BY (partition, model, id)
TTL written_at + INTERVAL 90 DAY
COMMENT 'deletions that owners of partitions shall carry out'

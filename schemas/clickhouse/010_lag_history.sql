-- What `fqlstream lag --history` saw of consumer groups, so that a restart keeps its window and `lag --since` has something to draw.

CREATE TABLE IF NOT EXISTS lag_samples (
    cluster LowCardinality(String) COMMENT 'id of the Kafka cluster',
    consumer_group LowCardinality(String),
    topic LowCardinality(String),
    partition Int32,
    at DateTime64(3, 'UTC') COMMENT 'when the ends of the logs were known, by the clock of whoever looked',
    committed Int64 COMMENT 'next offset that the group reads',
    log_end Int64 COMMENT 'next offset that is written',
    lag_records Int64 COMMENT 'offsets between them, holes and markers counted',
    lag_rows Nullable(Int64) COMMENT 'rows of the records between them; NULL: not counted',
    lag_seconds Nullable(Float64) COMMENT 'age of the first of those records; NULL: not known',
    is_left Nullable(Bool) COMMENT 'whether any readable record is between them; NULL: not known',
    is_held Bool COMMENT 'whether a member of the group has the partition',
    status LowCardinality(String)
) ENGINE = ReplacingMergeTree ORDER BY (cluster, consumer_group, topic, partition, at)
TTL toDateTime(at) + INTERVAL 30 DAY
COMMENT 'samples of consumer lag, kept for 30 days'

-- What the delivery protocol keeps: who owns a partition and how far it is, the states of panes, what was published.
-- Rows are absolute and carry a version; the newest version wins, whatever order they arrive in.

CREATE TABLE IF NOT EXISTS flushes (
    topic LowCardinality(String),
    partition Int32,
    epoch UInt64 COMMENT 'counts the owners of the partition',
    flush UInt64 COMMENT 'counts the flushes of that owner; 0 is its claim',
    owner String COMMENT 'random id of the owner',
    topic_id String COMMENT 'identity of the topic: a recreated one has another',
    fences Map(LowCardinality(String), Int64) COMMENT 'per lane, the last offset that its states contain; -1: none',
    watermarks Map(LowCardinality(String), Map(String, Int64)) COMMENT 'per lane and model, the highest event time seen up to the fence, Unix ms',
    idle Array(String) COMMENT 'models that this partition no longer holds back',
    panes Array(Tuple(model String, version String, start_ms Int64)) COMMENT 'panes that this flush touched',
    counters Map(LowCardinality(String), Int64) COMMENT 'diagnostics since the beginning',
    written_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(flush) ORDER BY (topic, partition, epoch, owner)
COMMENT 'what owners of partitions have durably written';

CREATE TABLE IF NOT EXISTS states (
    model LowCardinality(String),
    version LowCardinality(String) COMMENT 'model version',
    pane_start DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    partition Int32,
    lane LowCardinality(String) COMMENT 'events, or labels: cells that read a target',
    state_version UInt64 COMMENT 'epoch * 2^32 + flush: the highest wins',
    fence Int64 COMMENT 'the last offset that the cells contain',
    cells String CODEC(ZSTD(1)) COMMENT 'encoded aggregate states',
    retention_s UInt32 COMMENT 'kept for so long after it was written',
    written_at DateTime('UTC') DEFAULT now(),
    INDEX newer state_version TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(state_version) ORDER BY (model, version, pane_start, partition, lane)
TTL written_at + toIntervalSecond(retention_s)
SETTINGS index_granularity = 1024
COMMENT 'mergeable states of panes, one record per source partition and lane';

CREATE TABLE IF NOT EXISTS published (
    model String,
    value_version UInt64 COMMENT 'sum of the vector',
    vector Map(Int32, UInt64) COMMENT 'per partition, the version of the newest flush that was published',
    watermark_ms Nullable(Int64) COMMENT 'watermark of the model when it was published; never goes back',
    updated_at DateTime64(3, 'UTC'),
    newest UInt128 MATERIALIZED bitOr(bitShiftLeft(toUInt128(value_version), 64), toUInt128(toUnixTimestamp64Milli(updated_at)))
) ENGINE = ReplacingMergeTree(newest) ORDER BY model
COMMENT 'how far the values of each model have been published';

CREATE TABLE IF NOT EXISTS repair_requests (
    partition Int32 COMMENT 'whose owner shall rebuild the pane',
    model String,
    version String,
    pane_start DateTime64(3, 'UTC'),
    id String,
    reason String,
    requested_at DateTime64(3, 'UTC'),
    finished_at Nullable(DateTime64(3, 'UTC')),
    step UInt8 COMMENT '0 asked for, 1 done',
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(step) ORDER BY (partition, model, version, pane_start, id)
TTL written_at + INTERVAL 30 DAY
COMMENT 'panes to be rebuilt from history';

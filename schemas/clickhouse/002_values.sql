-- What people read: values of metrics, dead letters, definitions. Views need no FINAL.

CREATE TABLE IF NOT EXISTS metric_values (
    model LowCardinality(String),
    version LowCardinality(String) COMMENT 'model version; all: every version together',
    metric LowCardinality(String),
    segment LowCardinality(String) COMMENT 'empty: all rows',
    window_start DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    window_end DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    window_s UInt32 COMMENT 'length of the window in seconds',
    value Nullable(Float64),
    rows UInt64 COMMENT 'events in the window and segment',
    labelled_rows UInt64 COMMENT 'those of them that have a label',
    exact Bool,
    error_bound Nullable(Float64) COMMENT 'quantiles: rank error at 99 %; others: absolute error; NULL where exact',
    status Enum8('early' = 1, 'final' = 2, 'revised' = 3),
    value_version UInt64 COMMENT 'the highest is the newest; at a tie the later updated_at',
    definition_revision UInt32,
    updated_at DateTime64(3, 'UTC'),
    retention_s UInt32 COMMENT 'kept for so long after it was written',
    written_at DateTime('UTC') DEFAULT now(),
    newest UInt128 MATERIALIZED bitOr(bitShiftLeft(toUInt128(value_version), 64), toUInt128(toUnixTimestamp64Milli(updated_at)))
) ENGINE = ReplacingMergeTree(newest)
ORDER BY (model, version, metric, segment, window_s, window_start, window_end)
TTL written_at + toIntervalSecond(retention_s)
COMMENT 'every published value; read metric_series or metric_latest';

CREATE OR REPLACE VIEW metric_series AS
SELECT model, version, metric, segment, window_start, window_end, window_s, value, rows, labelled_rows, exact, error_bound,
       status, value_version, definition_revision, updated_at
FROM metric_values FINAL
COMMENT 'the newest value of every window';

-- The newest window of each series, kept as values are written: asking for it reads as many rows as there are series.
CREATE TABLE IF NOT EXISTS metric_newest (
    model LowCardinality(String),
    version LowCardinality(String),
    metric LowCardinality(String),
    segment LowCardinality(String),
    window_start DateTime64(3, 'UTC'),
    window_end DateTime64(3, 'UTC'),
    window_s UInt32,
    value Nullable(Float64),
    rows UInt64,
    labelled_rows UInt64,
    exact Bool,
    error_bound Nullable(Float64),
    status Enum8('early' = 1, 'final' = 2, 'revised' = 3),
    value_version UInt64,
    definition_revision UInt32,
    updated_at DateTime64(3, 'UTC'),
    retention_s UInt32,
    written_at DateTime('UTC'),
    newest UInt256 COMMENT 'start of the window, then version of the value'
) ENGINE = ReplacingMergeTree(newest)
ORDER BY (model, version, metric, segment, window_s)
TTL written_at + toIntervalSecond(retention_s)
COMMENT 'read metric_latest';

CREATE MATERIALIZED VIEW IF NOT EXISTS metric_newest_writer TO metric_newest AS
SELECT model, version, metric, segment, window_start, window_end, window_s, value, rows, labelled_rows, exact, error_bound,
       status, value_version, definition_revision, updated_at, retention_s, written_at,
       bitOr(bitShiftLeft(toUInt256(toUnixTimestamp64Milli(window_start) + 2208988800000), 128), toUInt256(newest)) AS newest
FROM metric_values;

CREATE OR REPLACE VIEW metric_latest AS
SELECT model, version, metric, segment, window_start, window_end, window_s, value, rows, labelled_rows, exact, error_bound,
       status, value_version, definition_revision, updated_at
FROM metric_newest FINAL
COMMENT 'the newest value of the newest window, per metric, segment and window length';

CREATE TABLE IF NOT EXISTS dead_letter_rows (
    topic LowCardinality(String),
    partition Int32,
    offset Int64,
    row String COMMENT '0 for a JSON record; the row numbers of a batch, comma-separated',
    code LowCardinality(String),
    reason String,
    record_at DateTime64(3, 'UTC'),
    seen_at DateTime64(3, 'UTC'),
    content_type LowCardinality(String),
    value_bytes UInt64 COMMENT 'size of what was refused; the bytes are in the topic dead-letters',
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(seen_at) ORDER BY (topic, partition, offset, row)
TTL written_at + INTERVAL 30 DAY
COMMENT 'what was refused; read dead_letters';

CREATE OR REPLACE VIEW dead_letters AS
SELECT code, reason, concat(topic, '[', toString(partition), ']@', toString(offset)) AS origin, seen_at,
       topic, partition, offset, row, record_at, content_type, value_bytes
FROM dead_letter_rows FINAL
COMMENT 'what was refused, why and where it came from';

CREATE TABLE IF NOT EXISTS definition_rows (
    kind LowCardinality(String),
    model String,
    name String,
    position Int64 COMMENT 'offset on the topic definitions: the highest is the newest',
    definition String COMMENT 'as JSON; empty: deleted',
    revision UInt32,
    updated_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(position) ORDER BY (kind, model, name)
COMMENT 'mirror of the topic definitions; read definitions';

CREATE OR REPLACE VIEW definitions AS
SELECT kind, model, name, definition, revision, updated_at
FROM definition_rows FINAL
WHERE definition != ''
COMMENT 'models, metrics, segments and baselines as they stand';

-- Numbers that people record themselves. Rows are absolute and keyed by their place in the topic metric-events: writing one
-- again changes nothing, and of two rows of one key the one that was recorded later counts. A forgotten one leaves a row that
-- says so.

CREATE TABLE IF NOT EXISTS pipeline_metric_rows (
    execution_id String,
    name String,
    value Float64,
    at_us Int64 COMMENT 'when it was measured, Unix microseconds',
    recorded_at DateTime64(3, 'UTC') COMMENT 'time of the record on the topic',
    partition Int32,
    offset UInt64,
    is_forgotten UInt8,
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(offset, is_forgotten) ORDER BY (execution_id, name)
COMMENT 'pipeline metrics; read pipeline_metric_latest';

CREATE TABLE IF NOT EXISTS list_metric_rows (
    execution_id String,
    name String,
    partition Int32,
    offset UInt64 COMMENT 'one row per record that appended values',
    start UInt32 COMMENT 'values of the list before these',
    values Array(Float64) CODEC(ZSTD(1)),
    at_us Int64 COMMENT 'when they were measured, Unix microseconds',
    recorded_at DateTime64(3, 'UTC') COMMENT 'time of the record on the topic',
    said_at UInt64 COMMENT 'offset of the record that says so: this one, or the one that forgot it',
    is_forgotten UInt8,
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(said_at, is_forgotten) ORDER BY (execution_id, name, partition, offset)
COMMENT 'values of list metrics; read list_metric_values or list_metric_latest';

CREATE TABLE IF NOT EXISTS list_summary_rows (
    execution_id String,
    name String,
    partition Int32,
    summary_version UInt64 COMMENT 'epoch * 2^32 + flush: the highest wins',
    fence Int64 COMMENT 'the last offset that the summary contains',
    count UInt64 COMMENT 'values of the list',
    finite UInt64 COMMENT 'those of them that are neither NaN nor infinite: what follows is of these',
    mean Nullable(Float64),
    variance Nullable(Float64) COMMENT 'sample variance; NULL below two values',
    min Nullable(Float64),
    max Nullable(Float64),
    quantiles Map(LowCardinality(String), Float64) COMMENT 'by rank, as 0.5; of a sketch that saw the values one after the other',
    state String COMMENT 'running moments, encoded; the sketches are computed again from the values',
    created_us Int64 COMMENT 'when its first values were measured, Unix microseconds',
    updated_us Int64 COMMENT 'when its last values were measured, Unix microseconds',
    is_forgotten UInt8,
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(summary_version, is_forgotten) ORDER BY (execution_id, name, partition)
COMMENT 'running summaries of list metrics; read list_metric_summary';

CREATE TABLE IF NOT EXISTS job_metric_rows (
    job_id String,
    name String,
    step Int64,
    value Float64,
    at_us Int64 COMMENT 'when it was measured, Unix microseconds',
    recorded_at DateTime64(3, 'UTC') COMMENT 'time of the record on the topic',
    partition Int32,
    offset UInt64,
    is_forgotten UInt8,
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(offset, is_forgotten) ORDER BY (job_id, name, step)
COMMENT 'job metrics, every step; read job_metric_series or job_metric_latest';

CREATE OR REPLACE VIEW pipeline_metric_latest AS
SELECT execution_id, name, value, fromUnixTimestamp64Micro(greatest(least(at_us, 10413791999999999), -2208988800000000), 'UTC') AS created_at,
       recorded_at, partition, offset
FROM pipeline_metric_rows FINAL
COMMENT 'the number last recorded, per execution and name';

CREATE OR REPLACE VIEW list_metric_values AS
SELECT execution_id, name, start + position - 1 AS index, value,
       fromUnixTimestamp64Micro(greatest(least(at_us, 10413791999999999), -2208988800000000), 'UTC') AS created_at, recorded_at
FROM list_metric_rows FINAL
ARRAY JOIN values AS value, arrayEnumerate(values) AS position
COMMENT 'every value of every list; index counts from 0';

CREATE OR REPLACE VIEW list_metric_latest AS
SELECT execution_id, name, arrayFlatten(arrayMap(chunk -> chunk.2, arraySort(chunk -> chunk.1, groupArray((start, values))))) AS values,
       length(values) AS count,
       fromUnixTimestamp64Micro(greatest(least(min(at_us), 10413791999999999), -2208988800000000), 'UTC') AS created_at,
       fromUnixTimestamp64Micro(greatest(least(max(at_us), 10413791999999999), -2208988800000000), 'UTC') AS updated_at
FROM list_metric_rows FINAL
GROUP BY execution_id, name
COMMENT 'every list whole, in the order in which its values were recorded';

CREATE OR REPLACE VIEW job_metric_series AS
SELECT job_id, name, step, value, fromUnixTimestamp64Micro(greatest(least(at_us, 10413791999999999), -2208988800000000), 'UTC') AS created_at,
       recorded_at, partition, offset
FROM job_metric_rows FINAL
COMMENT 'the number last recorded, per job, name and step';

CREATE OR REPLACE VIEW job_metric_latest AS
SELECT job_id, name, step, value, created_at, recorded_at
FROM job_metric_series
ORDER BY job_id, name, step DESC
LIMIT 1 BY job_id, name
COMMENT 'the number of the highest step, per job and name';

CREATE OR REPLACE VIEW list_metric_summary AS
SELECT s.execution_id AS execution_id, s.name AS name, s.count AS count, s.finite AS finite, s.mean AS mean, s.variance AS variance,
       s.min AS min, s.max AS max, s.quantiles AS quantiles, e.exact_quantiles AS exact_quantiles, s.created_at AS created_at,
       s.updated_at AS updated_at
FROM (
    SELECT execution_id, name, count, finite, mean, variance, min, max, quantiles,
           fromUnixTimestamp64Micro(greatest(least(created_us, 10413791999999999), -2208988800000000), 'UTC') AS created_at,
           fromUnixTimestamp64Micro(greatest(least(updated_us, 10413791999999999), -2208988800000000), 'UTC') AS updated_at
    FROM list_summary_rows FINAL
) AS s
LEFT JOIN (
    SELECT execution_id, name,
           mapFromArrays(['0.05', '0.25', '0.5', '0.75', '0.95'], quantilesExactInclusiveArray(0.05, 0.25, 0.5, 0.75, 0.95)(arrayFilter(v -> isFinite(v), values))) AS exact_quantiles
    FROM list_metric_rows FINAL
    GROUP BY execution_id, name
) AS e ON e.execution_id = s.execution_id AND e.name = s.name
COMMENT 'count, moments, extremes and quantiles of every list: as a sketch has them, and exact';

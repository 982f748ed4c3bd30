-- Metrics written in Python: who runs them, runs with their progress, values, and validations that were asked for.

CREATE TABLE IF NOT EXISTS code_metric_owners (
    partition Int32 COMMENT 'of the topic code-metric-tasks',
    epoch UInt64 COMMENT 'counts the owners of the partition: the highest runs its metrics',
    owner String COMMENT 'random id of the runner',
    claimed_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree ORDER BY (partition, epoch, owner)
COMMENT 'who runs the code metrics of each partition';

CREATE TABLE IF NOT EXISTS code_metric_runner_rows (
    owner String COMMENT 'random id of the runner',
    host String,
    engine LowCardinality(String),
    layers Array(String) COMMENT 'layers of the sandbox that hold there',
    missing Array(String) COMMENT 'those that do not, each with the reason',
    code String COMMENT 'why it runs nothing; empty where it does',
    error String,
    partitions Array(Int32) COMMENT 'whose metrics it runs',
    seen_at DateTime64(3, 'UTC'),
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(seen_at) ORDER BY owner
TTL written_at + INTERVAL 7 DAY
COMMENT 'runners of code metrics, and what contains the code there';

CREATE TABLE IF NOT EXISTS code_metric_run_rows (
    metric_id String,
    period_end DateTime64(3, 'UTC') COMMENT 'end of the aggregation period that the run is of',
    run_version UInt64 COMMENT 'epoch * 2^32 + number: the highest wins',
    owner String COMMENT 'the runner',
    model String,
    metric String,
    inputs_hash String COMMENT 'of the code, the period and the segments: another one is run again',
    data_from DateTime64(3, 'UTC') COMMENT 'event times of its rows, half-open',
    data_to DateTime64(3, 'UTC'),
    vector Map(Int32, UInt64) COMMENT 'per source partition, the flush whose rows it certainly has',
    state LowCardinality(String) COMMENT 'running, success, failed, or given_up: to be run again',
    stage LowCardinality(String),
    progress UInt8 COMMENT 'stages done, in percent of all',
    rows UInt64,
    engine LowCardinality(String),
    layers Array(String) COMMENT 'layers of the sandbox that were active',
    seconds Map(String, Float64) COMMENT 'per stage',
    peak_memory_bytes UInt64,
    code String COMMENT 'of the error; empty for none',
    error String,
    traceback String COMMENT 'cut to lines of the metric',
    hint String,
    tries UInt32 COMMENT 'how often it was given up before',
    started_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    finished_at Nullable(DateTime64(3, 'UTC')),
    kept_until DateTime('UTC')
) ENGINE = ReplacingMergeTree(run_version) ORDER BY (metric_id, period_end)
TTL kept_until
COMMENT 'runs of code metrics, the newest of each period; read code_metric_runs';

CREATE TABLE IF NOT EXISTS code_metric_value_rows (
    metric_id String,
    version String COMMENT 'model version, or all',
    segment String COMMENT 'empty: all rows',
    period_end DateTime64(3, 'UTC'),
    run_version UInt64,
    model String,
    metric String,
    value Nullable(Float64) COMMENT 'NULL where the code gave None; NaN is a value',
    rows UInt64,
    data_from DateTime64(3, 'UTC'),
    data_to DateTime64(3, 'UTC'),
    computed_at DateTime64(3, 'UTC'),
    kept_until DateTime('UTC')
) ENGINE = ReplacingMergeTree(run_version) ORDER BY (metric_id, version, segment, period_end)
TTL kept_until
COMMENT 'values of code metrics; read code_metric_values';

CREATE TABLE IF NOT EXISTS code_metric_task_rows (
    metric_id String,
    dataset_id String COMMENT 'empty: a run of the newest period',
    code_hash String,
    attempt UInt32,
    step UInt64 COMMENT 'grows with each row of a task: the highest is how it stands',
    model String,
    metric String,
    state LowCardinality(String) COMMENT 'pending, success or failed',
    is_delivered UInt8 COMMENT 'whoever asked has had the final answer',
    stage LowCardinality(String),
    progress UInt8,
    value Nullable(Float64),
    segments Map(String, Nullable(Float64)),
    rows UInt64,
    engine LowCardinality(String),
    layers Array(String),
    seconds Map(String, Float64),
    peak_memory_bytes UInt64,
    code String,
    error String,
    traceback String,
    hint String,
    requested_at DateTime64(3, 'UTC'),
    updated_at DateTime64(3, 'UTC'),
    written_at DateTime('UTC') DEFAULT now()
) ENGINE = ReplacingMergeTree(step) ORDER BY (metric_id, dataset_id, code_hash, attempt)
TTL written_at + INTERVAL 30 DAY
COMMENT 'validations of code metrics that were asked for, and what became of them';

CREATE OR REPLACE VIEW code_metric_runs AS
SELECT model, metric, metric_id, period_end, state, stage, progress, rows, data_from, data_to, engine, layers, seconds, peak_memory_bytes,
       code, error, traceback, hint, started_at, finished_at, run_version
FROM code_metric_run_rows FINAL
COMMENT 'the newest run of every code metric and period';

CREATE OR REPLACE VIEW code_metric_values AS
SELECT model, metric, metric_id, version, segment, period_end, value, rows, data_from, data_to, computed_at, run_version
FROM code_metric_value_rows FINAL
COMMENT 'the newest value of every code metric, version, segment and period';

CREATE OR REPLACE VIEW code_metric_latest AS
SELECT *
FROM code_metric_values
ORDER BY metric_id, version, segment, period_end DESC
LIMIT 1 BY metric_id, version, segment
COMMENT 'the value of the newest period, per code metric, version and segment'

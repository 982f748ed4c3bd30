-- What recorded metrics belong to, so that analysts can join it: pipelines, deployments, executions, experiments and jobs.

CREATE TABLE IF NOT EXISTS registry_rows (
    kind LowCardinality(String),
    name String COMMENT 'of a job its number',
    position Int64 COMMENT 'offset on the topic definitions: the highest is the newest',
    definition String COMMENT 'as JSON; empty: deleted',
    created_at DateTime64(3, 'UTC'),
    changed_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(position) ORDER BY (kind, name)
COMMENT 'mirror of what is registered on the topic definitions; read registry';

CREATE OR REPLACE VIEW registry AS
SELECT kind, if(JSONHas(definition, 'id'), JSONExtractUInt(definition, 'id'), NULL) AS id,
       nullIf(JSONExtractString(definition, 'name'), '') AS name,
       nullIf(JSONExtractString(definition, 'pipeline'), '') AS pipeline,
       nullIf(JSONExtractString(definition, 'deployment'), '') AS deployment,
       nullIf(JSONExtractString(definition, 'experiment'), '') AS experiment,
       definition, created_at, changed_at
FROM registry_rows FINAL
WHERE definition != ''
COMMENT 'pipelines, deployments, executions, experiments and jobs as they stand';

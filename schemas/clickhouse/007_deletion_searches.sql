-- How far history was searched for rows of deleted ids: whoever takes a partition over goes on from there.

CREATE TABLE IF NOT EXISTS deletion_searches (
    partition Int32 COMMENT 'source partition whose history was searched',
    searched_until DateTime64(3, 'UTC') COMMENT 'time of ClickHouse when the last search began that found nothing'
) ENGINE = ReplacingMergeTree(searched_until) ORDER BY partition
COMMENT 'until when rows of deleted ids were looked for';

-- Who publishes the values of a model: a claim of a higher epoch ends the one before.

CREATE TABLE IF NOT EXISTS finalisers (
    model String,
    epoch UInt64 COMMENT 'counts the finalisers of the model: the highest publishes',
    owner String COMMENT 'random id of the finaliser',
    claimed_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree ORDER BY (model, epoch, owner)
COMMENT 'who publishes the values of a model';

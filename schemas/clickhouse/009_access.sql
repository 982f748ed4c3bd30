-- Who may use the API. Secrets are kept as argon2id hashes only; a password is mixed with the API's own secret before it is hashed,
-- so that whoever can read this table cannot guess passwords from it.

CREATE TABLE IF NOT EXISTS access_keys (
    id String COMMENT 'the middle part of a key fq_<id>_<secret>: no secret',
    name String COMMENT 'what it is for, as its maker said',
    scopes Array(LowCardinality(String)) COMMENT 'write, read, admin',
    hash String COMMENT 'argon2id of the secret part',
    created_at DateTime64(3, 'UTC'),
    revoked_at Nullable(DateTime64(3, 'UTC')),
    step UInt8 COMMENT '0 created, 1 revoked: never taken back'
) ENGINE = ReplacingMergeTree(step) ORDER BY id
COMMENT 'API keys';

CREATE TABLE IF NOT EXISTS access_users (
    name String,
    scopes Array(LowCardinality(String)) COMMENT 'write, read, admin',
    hash String COMMENT 'argon2id of the password; empty: the user was removed',
    changed_at DateTime64(3, 'UTC'),
    sessions_from DateTime64(3, 'UTC') COMMENT 'logins before this time are over',
    version UInt64
) ENGINE = ReplacingMergeTree(version) ORDER BY name
COMMENT 'users who log in with a password';

CREATE TABLE IF NOT EXISTS access_ended_sessions (
    id String COMMENT 'of a session that its user has logged out of',
    ended_at DateTime('UTC')
) ENGINE = ReplacingMergeTree ORDER BY id
TTL ended_at + INTERVAL 31 DAY
COMMENT 'sessions that are over before their time'

-- Which record may have ended the owners of a partition: so that it is tried alone, and set aside when it was that one.

ALTER TABLE flushes ADD COLUMN IF NOT EXISTS deaths UInt32
COMMENT 'owners that ended without leaving since the fence moved last, or while they applied the one suspect alone' AFTER adopted;

ALTER TABLE flushes ADD COLUMN IF NOT EXISTS suspects Array(Int64)
COMMENT 'first and last offset among which a record may kill its process; empty: none' AFTER deaths;

ALTER TABLE flushes ADD COLUMN IF NOT EXISTS trying Array(Int64)
COMMENT 'first and last offset that the owner is about to apply alone; empty: none' AFTER suspects;

ALTER TABLE flushes ADD COLUMN IF NOT EXISTS has_left Bool
COMMENT 'the owner has written what it had, as the partition may be given up' AFTER trying;

-- Which definitions states and values were made under, so that a change while nobody worked is noticed; and when a repair may run.

ALTER TABLE flushes ADD COLUMN IF NOT EXISTS adopted Map(String, String)
COMMENT 'per model, a digest of what its open panes are computed under' AFTER panes;

ALTER TABLE published ADD COLUMN IF NOT EXISTS definitions String
COMMENT 'digest of the definitions that the values were published under' AFTER watermark_ms;

ALTER TABLE repair_requests ADD COLUMN IF NOT EXISTS applied_offset Int64 DEFAULT -1
COMMENT 'the owner must have applied this offset first' AFTER pane_start;

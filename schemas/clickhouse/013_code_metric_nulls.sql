-- What no value of a code metric means: None is refused, and a run that failed leaves no older value standing.

ALTER TABLE code_metric_value_rows COMMENT COLUMN IF EXISTS value
'NULL where the segment has no rows or the run of the period failed; NaN is a value';

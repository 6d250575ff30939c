-- Whether there is one to rename: the user may have removed it by hand.
SELECT 1 FROM {schema}.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE

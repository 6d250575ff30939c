-- Whether there is a table with the name of a log, and whether it is one.
SELECT sql LIKE '%(seq INTEGER PRIMARY KEY, row INTEGER, tag INTEGER)' FROM {schema}.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE

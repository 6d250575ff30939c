-- A source and its triggers as the schema has them. A table that was made anew, or
-- a trigger, stands in another row than before; VACUUM may move both.
SELECT type, name, rowid, rootpage, sql FROM {schema}.sqlite_schema WHERE type IN ('table', 'trigger') AND tbl_name = {table} COLLATE NOCASE ORDER BY type, name

-- What may be shadow tables of faiss tables: their settings say which source.
SELECT name FROM {schema}.sqlite_schema WHERE type = 'table' AND name LIKE '%\_config' ESCAPE '\' AND sql LIKE '%(k PRIMARY KEY, v) WITHOUT ROWID' ORDER BY name

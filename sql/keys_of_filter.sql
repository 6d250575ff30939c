-- The rows that a filter allows, found by SQLite with the source's own indexes.
SELECT {key} FROM {source} AS s WHERE 1{filter}

-- Whether a filter allows one row.
SELECT 1 FROM {source} AS s WHERE {key} = ?1{filter}

-- The row with a rowid, if it is indexed.
SELECT {key}, {id}, {embedding} FROM {source} AS s WHERE {key} = ?1 AND {embedding} IS NOT NULL

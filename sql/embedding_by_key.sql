-- The embedding of a row found by a search.
SELECT {key}, {id}, {embedding} FROM {source} AS s WHERE {key} = ?1

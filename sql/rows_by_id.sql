-- The rows with an id. The collation is that of the source's column, since the
-- virtual table declares its id with it.
SELECT {key}, {id}, {embedding} FROM {source} AS s WHERE {id} = ?1 COLLATE {collation} AND {embedding} IS NOT NULL

-- Going on with an interrupted reading of all rows.
SELECT {key}, {id}, {embedding}{columns} FROM {source} AS s WHERE {key} > ?1{order}

-- All rows of a source in its own order, for building and comparing an index.
SELECT {key}, {id}, {embedding}{columns} FROM {source} AS s{order}

-- One row found by a search, by the name of the rowid that no column hides.
SELECT {key}, {id}, {embedding} FROM {source} AS s WHERE {key} = ?1

-- One row found by a search, without its embedding, which may fill pages of its own.
SELECT {key}, {id}, NULL{columns} FROM {source} AS s WHERE {key} = ?1

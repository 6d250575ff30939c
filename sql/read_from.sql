-- Embeddings of rows that an index keeps no vectors of, in the order of their keys.
SELECT {key}, NULL, {embedding} FROM {source} AS s WHERE {key} >= ?1{order}

-- The length of the first embedding, which gives the dimension of an index.
SELECT typeof({embedding}), length({embedding}) FROM {source} AS s WHERE {embedding} IS NOT NULL LIMIT 1

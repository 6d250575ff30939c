-- A faiss table read without a vector: the rows that are indexed.
SELECT {key}, {id}, {embedding}{columns} FROM {source} AS s WHERE {embedding} IS NOT NULL{filter}{order}

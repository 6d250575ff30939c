-- Whether a source has more rows than so many, before they are read.
SELECT {key} FROM {source} AS s ORDER BY {key} LIMIT 1 OFFSET ?1

-- Where the rows of a source end, to take a sample from all over it.
SELECT {key} FROM {source} AS s ORDER BY {key} DESC LIMIT 1

-- Whether a UNIQUE index would find rows: one look at the index, without opening the log.
EXISTS (SELECT 1 FROM {table} AS s WHERE {conflict})

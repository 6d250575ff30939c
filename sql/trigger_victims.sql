-- The rows that a UNIQUE index would find.
INSERT INTO {log}(row, tag) SELECT s.{rowid}, random() | 1 FROM {table} AS s WHERE {conflict};

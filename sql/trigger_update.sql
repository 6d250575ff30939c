-- Logs a row whose embedding or id is about to change.
{name} BEFORE UPDATE{columns} ON {table} BEGIN {checks}INSERT INTO {log}(row, tag) VALUES (OLD.{rowid}, random() | 1); {trim} END

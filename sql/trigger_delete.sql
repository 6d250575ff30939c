-- Logs a row before it goes, so that a search in another trigger of the same
-- statement finds the entry whenever the row is gone.
{name} BEFORE DELETE ON {table} BEGIN INSERT INTO {log}(row, tag) VALUES (OLD.{rowid}, random() | 1); {trim} END

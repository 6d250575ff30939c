-- Logs a change of the rowid: an update of "rowid" is not one of the column that is
-- an alias of it. SQLite matches these names with those in SET.
{name} BEFORE UPDATE{columns} ON {table} WHEN OLD.{rowid} IS NOT NEW.{rowid} BEGIN INSERT INTO {log}(row, tag) VALUES (OLD.{rowid}, random() | 1), (NEW.{rowid}, random() | 1); {cut} END

-- Logs a new row.
{name} AFTER INSERT ON {table} BEGIN {checks}INSERT INTO {log}(row, tag) VALUES (NEW.{rowid}, random()); {trim} END

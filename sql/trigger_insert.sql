-- Logs a new row. Here and below the ring is cut once in 1,024 entries, by a delete
-- that is cheap otherwise: it looks for entries before the first.
{name} AFTER INSERT ON {table} BEGIN {checks}INSERT INTO {log}(row, tag) VALUES (NEW.{rowid}, random()); {trim} END

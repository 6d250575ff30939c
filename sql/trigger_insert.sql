-- Logs a new row, unless the last entry is of a run that it belongs to. A row at the end of the
-- table begins a run, which its even tag shows: it stands for the 15 rowids behind its own, too.
{name} AFTER INSERT ON {table} WHEN (SELECT NEW.{rowid} - row >> 4 OR tag & 1 FROM {log} ORDER BY seq DESC) IS NOT 0{unfit} BEGIN {checks}INSERT INTO {log}(row, tag) VALUES (NEW.{rowid}, random() & -2 | (NEW.{rowid} <> (SELECT max({rowid}) FROM {table}))); {trim} END

-- The end of the triggers that write several entries, and might step over every 256th.
DELETE FROM {log} WHERE seq <= last_insert_rowid() - 65536;

-- The end of the triggers that write one entry: the ring is cut once in 256. A range
-- from NULL is empty before the log is touched. Much more at once would spill the
-- statement journal to a file, where it stays until the transaction ends.
DELETE FROM {log} WHERE seq BETWEEN CASE WHEN last_insert_rowid() & 255 THEN NULL ELSE 0 END AND last_insert_rowid() - 65536;

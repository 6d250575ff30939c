-- The end of the body of every trigger.
DELETE FROM {log} WHERE seq <= CASE WHEN last_insert_rowid() & 1023 THEN 0 ELSE last_insert_rowid() - 65536 END;

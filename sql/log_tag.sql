-- Whether an entry that another snapshot had stands in this one.
SELECT tag FROM {log} WHERE seq = ?1

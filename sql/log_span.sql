-- Whether the entries behind one are all there, and all name a row.
SELECT count(row) FROM {log} WHERE seq > ?1

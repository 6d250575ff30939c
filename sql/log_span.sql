-- Whether the entries behind one are all there, and all name a row; and how many rows they stand for.
SELECT count(row), count(row) + 15 * count(CASE WHEN tag & 1 IS NOT 1 THEN 1 END) FROM {log} WHERE seq > ?1

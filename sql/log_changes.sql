-- The rows that changed since an entry of the log, as they are now. One that begins a run stands
-- for 16 rowids; and if the run of ?1 went on, its rows are not those of then. ?2: one more, or NULL:
-- the row that a statement now running has just inserted, for the trigger that logs it may run after
-- the expression that searches.
SELECT l.row, {id}, {embedding}, {key} IS NOT NULL FROM (SELECT row FROM {log} WHERE seq > ?1 UNION SELECT r.row + n.column1 FROM {log} AS r CROSS JOIN (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12), (13), (14), (15)) AS n WHERE r.seq >= ?1 AND r.tag & 1 IS NOT 1 AND r.row <= 9223372036854775807 - n.column1 UNION SELECT ?2 WHERE ?2 IS NOT NULL) AS l LEFT JOIN {source} AS s ON {key} = l.row ORDER BY l.row

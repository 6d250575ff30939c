-- The same with the row that a statement now running has just inserted (?2): the
-- trigger that logs it may run after the expression that searches.
SELECT l.row, {id}, {embedding}, {key} IS NOT NULL FROM (SELECT row FROM {log} WHERE seq > ?1 UNION SELECT ?2) AS l LEFT JOIN {source} AS s ON {key} = l.row ORDER BY l.row

-- The rows that changed since an entry of the log, as they are now.
SELECT l.row, {id}, {embedding}, {key} IS NOT NULL FROM (SELECT DISTINCT row FROM {log} WHERE seq > ?1) AS l LEFT JOIN {source} AS s ON {key} = l.row ORDER BY l.row

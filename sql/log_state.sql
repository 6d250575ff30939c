-- What names the state of a live source in this snapshot: the last entry of its log, and the rows
-- of the run that this one begins, if it does.
SELECT l.seq, l.tag, {key}, {embedding} FROM (SELECT seq, tag, CASE WHEN tag & 1 THEN NULL ELSE row + 0 END AS first FROM {log} ORDER BY seq DESC LIMIT 1) AS l LEFT JOIN {source} AS s ON {key} BETWEEN l.first AND l.first + 15

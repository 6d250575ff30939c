-- The columns of the UNIQUE indexes of a source, which say which rows a conflict
-- replaces; and the defaults that NOT NULL ON CONFLICT REPLACE puts in.
SELECT l.name, x.cid, x.name, x.coll, CASE WHEN c."notnull" THEN c.dflt_value END, c.hidden IN (2, 3), l.partial FROM pragma_index_list(?1, ?2) AS l JOIN pragma_index_xinfo(l.name, ?2) AS x LEFT JOIN pragma_table_xinfo(?1, ?2) AS c ON c.cid = x.cid WHERE l."unique" AND x.key ORDER BY l.name, x.seqno

-- A primary key with an index of its own is no alias of the rowid, even if its
-- one column is an INTEGER (INTEGER PRIMARY KEY DESC).
PRAGMA {schema}.index_list({table})

-- Whether a source exists, and whether it is a table with or without rowid, a
-- view or a virtual table. Connects virtual tables, so that a faiss table named
-- as a source is known afterwards.
PRAGMA {schema}.table_list({table})

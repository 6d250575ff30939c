-- Together with its faiss table. Absent when the user has removed it by hand.
DROP TABLE IF EXISTS {checkpoint}

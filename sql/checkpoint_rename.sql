-- ALTER TABLE … RENAME of a faiss table takes its shadow table along.
ALTER TABLE {checkpoint} RENAME TO {name}

-- ALTER TABLE … RENAME of a faiss table takes its shadow table along.
ALTER TABLE {config} RENAME TO {name}

-- With the last live faiss table of a source.
DROP TABLE {log}

-- Read the settings of a faiss table when it is connected.
SELECT k, v FROM {config}

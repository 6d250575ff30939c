-- The settings of a live faiss table that its source's triggers depend on.
SELECT max(v) FILTER (WHERE k = 'source'), max(v) FILTER (WHERE k = 'id'), max(v) FILTER (WHERE k = 'embedding'), max(v) FILTER (WHERE k = 'dimension'), max(v) FILTER (WHERE k = 'strict'), max(v) FILTER (WHERE k = 'live') FROM {config}

-- The first row whose embedding does not have the form of the first one's: what
-- CREATE VIRTUAL TABLE tells the user about before any search.
SELECT {id}, typeof({embedding}), length({embedding}), {key} FROM {source} AS s WHERE {embedding} IS NOT NULL AND (typeof({embedding}) <> 'blob' OR length({embedding}) <> ?1) LIMIT 1

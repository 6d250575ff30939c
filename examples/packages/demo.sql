-- Questions in plain English, answered by 4,000 Debian packages.
-- For the sqlite3 shell, on packages.db, after `.load build/faiss`; demo.sh does that.

.mode column --wrap 0
.headers on

-- An index over the table `packages` of this database, by its columns `id` and `embedding`.
-- Only this definition is stored: the vectors stay in the table, the index in memory.
CREATE VIRTUAL TABLE IF NOT EXISTS packages_index USING faiss(main, packages);

.print
.print == nearest neighbour search of vectors ==
.print
SELECT p.package, p.description, round(n.distance, 3) AS distance
FROM packages_index AS n
JOIN packages AS p USING (id)
WHERE n.embedding MATCH (
  SELECT embedding FROM questions WHERE question = 'nearest neighbour search of vectors'
)
ORDER BY n.distance
LIMIT 5;

.print
.print == play chess against the computer ==
.print
-- The same with the vector and k as arguments.
SELECT p.package, p.description, round(n.distance, 3) AS distance
FROM packages_index(
  (SELECT embedding FROM questions WHERE question = 'play chess against the computer'), 5
) AS n
JOIN packages AS p USING (id)
ORDER BY n.distance;

.print
.print == three questions in one statement ==
.print
-- One search for each row of `questions`: k counts the neighbours of each.
SELECT q.question, p.package, p.description, round(n.distance, 3) AS distance
FROM questions AS q
JOIN packages_index AS n ON n.embedding MATCH q.embedding AND n.k = 5
JOIN packages AS p ON p.id = n.id
WHERE q.question IN (
  'manage passwords securely', 'spell checker dictionary for Polish', 'static website generator'
)
ORDER BY q.question, n.distance;

.print
.print == packages like libfaiss-dev, without the virtual table ==
.print
-- A database has the name of its file too: 'packages' is packages.db, as in Datasette.
WITH related AS (
  SELECT key, value FROM json_each(
    faiss_search(
      'packages',
      'packages',
      (SELECT embedding FROM packages WHERE package = 'libfaiss-dev'),
      5
    )
  )
)
SELECT package, description FROM packages, related
WHERE id = value
ORDER BY key;

.print
.print == the indexes of this process: one, shared by everything above ==
.print
SELECT "database", "table", "rows", dimension, metric, kind, bytes,
  round(build_seconds, 3) AS build_seconds, searches
FROM faiss_indexes;

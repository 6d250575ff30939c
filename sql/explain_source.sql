-- The program that reads a view: whether its rows can change without a commit.
EXPLAIN SELECT {id}, {embedding} FROM {source} AS s

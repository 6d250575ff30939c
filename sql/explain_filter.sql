-- Whether an index of the source answers the filter, or all rows must be read.
EXPLAIN QUERY PLAN SELECT {key} FROM {source} AS s WHERE 1{filter}

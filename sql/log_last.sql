-- Whether there is a log, and it may be read.
SELECT seq, row, tag FROM {log} ORDER BY seq DESC LIMIT 1

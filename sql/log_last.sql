-- What names the state of a live source in this snapshot.
SELECT seq, tag FROM {log} ORDER BY seq DESC LIMIT 1

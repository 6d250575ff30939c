-- Entries that nobody but a user's hand can have made: behind the largest number there
-- would be no next one.
DELETE FROM {log} WHERE seq NOT BETWEEN 0 AND 4611686018427387903

-- Refuses a malformed embedding. The text of RAISE must be a literal.
SELECT RAISE(ABORT, {text}) WHERE {unfit};

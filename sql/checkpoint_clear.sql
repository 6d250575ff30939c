-- Before another one is stored.
DELETE FROM {checkpoint}

-- Before the settings are stored again.
DELETE FROM {config}

-- The schemas of this connection and the files behind them.
PRAGMA database_list

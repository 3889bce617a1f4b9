"""The facts, in Postgres: tables, and every query. One module per subject; functions take a unit of work."""

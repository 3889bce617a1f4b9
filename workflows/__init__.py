"""Decisions, one file per workflow: side effects are in `activities`, facts in Postgres."""

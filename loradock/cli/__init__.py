"""The `loradock` command: a thin client of the REST API, and the start of the service's processes."""

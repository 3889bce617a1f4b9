"""The control REST API: thin endpoints over the registry, and the start of workflows by name.

Reads come from Postgres alone. A write is committed in Postgres first and then started in Temporal; what Temporal
misses is started by the orchestrator's relay, so an answer of 202 holds through the death of either.
"""

"""The service from outside: a really running stack, and nothing used but what any client can reach."""

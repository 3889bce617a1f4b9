"""The embedded stack: every real part as a supervised child process, and the tiny model that the demo serves."""

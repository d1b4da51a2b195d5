"""Processes: what the operating system sees of the server."""

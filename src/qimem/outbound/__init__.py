"""The only outgoing HTTP of the server."""

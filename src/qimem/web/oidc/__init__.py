"""`/realms/{realm}`: what standard clients and resource servers read."""

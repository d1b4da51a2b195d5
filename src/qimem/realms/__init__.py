"""Tenants: isolated sets of users, clients, roles and keys."""

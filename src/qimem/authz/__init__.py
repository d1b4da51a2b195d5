"""Who may do what: the permission grammar and the one place where it is decided."""

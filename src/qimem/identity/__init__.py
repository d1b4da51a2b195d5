"""People: users, their roles and credentials, and login as a pure state machine."""

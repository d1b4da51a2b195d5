"""Login: a pure state machine, and the service that feeds it evidence."""

"""The database: base classes, the session, the models."""

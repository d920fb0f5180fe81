"""Database: base classes and column types, sessions, look-ups, pagination, and the models of all tables."""

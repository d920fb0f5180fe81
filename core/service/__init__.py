"""Service half: database, storage, jobs and the nouns of the API, without torch. Knows `core.artifact` alone."""

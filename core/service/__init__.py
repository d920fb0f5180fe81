"""Service half of the server, without torch: database, object store, jobs, and the API's resources, such as domains and
adapters. Of the other packages it imports only `core.artifact`."""

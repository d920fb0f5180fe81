"""Routes of the API, one file per kind of object. A handler opens a transaction, calls one function of `core.service`
and renders the result."""

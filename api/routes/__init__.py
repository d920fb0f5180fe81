"""One file a noun. A handler resolves, calls one service, returns."""

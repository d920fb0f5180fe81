"""How many requests a second one API process answers, beside a bare FastAPI route on the same PostgreSQL."""

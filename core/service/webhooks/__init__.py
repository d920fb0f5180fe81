"""Webhooks: tenants hear of events at addresses of their own, in the form of Standard Webhooks."""

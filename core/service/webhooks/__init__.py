"""Webhooks: events are sent to URLs of tenants, according to Standard Webhooks."""

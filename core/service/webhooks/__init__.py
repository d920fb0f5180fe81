"""Webhooks: sends events to tenants' URLs, as Standard Webhooks specifies."""

"""Usage of tenants, the fleet, the audit log."""

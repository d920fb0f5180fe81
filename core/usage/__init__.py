"""What tenants used, the fleet, the audit log."""

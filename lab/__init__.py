"""The lab: one model for provisioning, tests and commands."""

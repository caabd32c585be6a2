"""The lab as Python sees it: one model for provisioning, tests and commands."""

"""One folder a role: what it installs, its templates and the operations that configure it."""

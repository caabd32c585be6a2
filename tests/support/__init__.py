"""What several test files share: fixtures and hooks (plugins of tests/conftest.py), and helpers to import."""

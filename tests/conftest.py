"""Loads the fixtures and hooks of tests/support."""

import pytest

pytest.register_assert_rewrite("tests.support")
pytest_plugins = [
    "pytester",
    "tests.support.checkout",
    "tests.support.drawn",
    "tests.support.failures",
    "tests.support.health",
    "tests.support.lab",
    "tests.support.logs",
    "tests.support.servers",
    "tests.support.timing",
    "tests.support.virtual_machine",
]

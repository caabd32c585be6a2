"""What several test files share: fixtures and hooks (plugins of tests/conftest.py), and helpers to import."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

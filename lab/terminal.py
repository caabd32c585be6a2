"""What the commands of `lab` share: how they print, how they refuse, and the lab of the checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from rich.console import Console

from lab.checkout import Lab, NoLabError

console = Console(highlight=False)
GOOD, BAD, UNCLEAR = "[green]✓[/]", "[red]✗[/]", "[yellow]?[/]"


def fail(text: str) -> typer.Exit:
    """Print an error, and return the exception that ends the command with code 2."""
    print(f"lab: {text}", file=sys.stderr)
    return typer.Exit(2)


def this_lab() -> Lab:
    """Return the lab of the checkout that the command is called in."""
    try:
        return Lab.find(Path.cwd())
    except NoLabError as error:
        raise fail(str(error)) from error

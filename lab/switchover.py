"""Hands the database's primary, or the queue's master, to another machine while the lab works."""

from __future__ import annotations

import subprocess

from redis.exceptions import RedisError

from lab import members
from lab.checkout import Lab

HANDED_OVER = {"database": "primary", "queue": "master"}  # what is handed over, by role
WITHIN = 60  # seconds
SWITCH = "patronictl -c /etc/patroni/config.yml switchover lab --leader %s --force"


class RefusedError(Exception):
    """What cannot be handed over, and why."""


def switchover(lab: Lab, role: str) -> str:
    """Hand over, wait until it is done, and return what has changed; RefusedError if it is not possible."""
    if not lab.topology.several(role):
        only = ", ".join(machine.name for machine in lab.topology.with_role(role))
        raise RefusedError(f"only {only} has the role {role}. LAYOUT=ha has it on three machines: docs/change.md")
    if role == "queue" and lab.topology.broker == "rabbitmq":
        return rebalance(lab)
    holder = HANDED_OVER[role]
    before = members.holder(lab, role)
    try:
        if role == "database":
            lab.machines.guest(before).run(SWITCH, before)
        else:
            members.connect(lab, before, "sentinel").execute_command("SENTINEL", "FAILOVER", "lab")
    except (AssertionError, RedisError) as error:
        raise RefusedError(f"{role}: {error}. Next: lab doctor") from error

    def moved() -> str:
        now = members.holder(lab, role)
        assert now != before, f"{before} is still the {holder}"
        return now

    return f"{role}: {lab.eventually(moved, within=WITHIN)} is the {holder}; it was {before}"


def rebalance(lab: Lab) -> str:
    """Let RabbitMQ spread the leaders of its queues over its nodes: it has no master."""
    first = lab.topology.with_role("queue")[0].name
    try:
        lab.machines.guest(first).run_script("rabbitmq-queues --quiet rebalance all")
    except subprocess.CalledProcessError as error:
        raise RefusedError(f"queue: {error.stderr.strip()}. Next: lab doctor") from error
    states = members.states(lab)["queue"]
    return f"queue: {', '.join(f'{name} {state}' for name, state in states.items())}"

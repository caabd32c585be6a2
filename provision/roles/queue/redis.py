"""Redis: one server, or one that the others replicate, with Sentinels that appoint another if it does not answer."""

from pathlib import Path
from typing import Any

from pyinfra.operations import files

from provision.operations import Context, copy, digest, run_once, template

HERE = Path(__file__).parent
ETC = "/etc/redis"


def configure(context: Context) -> list[str]:
    """Write the files of Redis, and return those that it reads and never writes."""
    owner: dict[str, Any] = {"user": "redis", "group": "redis", "mode": "640"}
    several = context.lab.several("queue")
    values: dict[str, Any] = {"machine": context.machine, "password": context.secrets["redis_password"]}
    settings = template(HERE / "redis.conf.j2", f"{ETC}/lab.conf", **owner, lab=context.lab, several=several, **values)
    if not several:
        return [settings, copy(HERE / "include.conf", f"{ETC}/redis.conf", **owner)]
    files.directory(name=f"Let Redis write to {ETC}", path=ETC, user="redis", group="redis", mode="2770")
    sentinel = template(HERE / "sentinel.conf.j2", f"{ETC}/lab-sentinel.conf", **owner, lab=context.lab, **values)
    # Redis and Sentinel add to their own files whom they follow, so these are written only if our settings change.
    run_once(
        "Write the files of Redis and Sentinel",
        key="replication",
        digest=digest((HERE / "sentinel.conf.j2").read_text(), str(values), str(context.lab.with_role("queue"))),
        commands=["PYTHONPATH=/vagrant python3 -m provision.roles.queue.replication"],
    )
    return [settings, sentinel]

"""The members of what several machines do together: who is the primary, who follows it, and what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from lab.checkout import Lab
from lab.parallel import for_each

ANSWER = 4  # seconds that a member has to answer
LAG = 16 * 2**20  # bytes of the write-ahead log that a replica may lack
MiB = 2**20
PROVISION = "vagrant provision"


@dataclass(frozen=True)
class Finding:
    """What is wrong on a machine, and what fixes it."""

    machine: str
    wrong: str
    fix: str


def states(lab: Lab) -> dict[str, dict[str, str]]:
    """Return, for each role of which several machines are members, what each member does."""
    return {role: describe(lab) for role, (describe, _) in ROLES.items() if lab.topology.several(role)}


def findings(lab: Lab) -> list[Finding]:
    """Return what is wrong with the members of each role."""
    several = [find for role, (_, find) in ROLES.items() if lab.topology.several(role)]
    return [finding for find in several for finding in find(lab)]


def holder(lab: Lab, role: str) -> str:
    """Return the machine that is the primary, the leader or the master, or has the address; AssertionError if none is.

    RabbitMQ has no master: it is the node that leads most queues. Of one machine with the role, it is that machine.
    """
    machines = lab.topology.with_role(role)
    if len(machines) == 1:
        return machines[0].name
    states = ROLES[role][0](lab)
    held = [name for name, state in states.items() if state in ("primary", "leader", "master")]
    held += [name for name, state in states.items() if state.startswith("has ")]
    leads = {name: int(state.split()[1]) for name, state in states.items() if state.startswith("leads ")}
    held += [max(leads, key=lambda name: leads[name])] if leads else []
    assert len(held) == 1, f"{role}: {states}"
    return held[0]


def database(lab: Lab) -> list[Mapping[str, Any]]:
    """Return the members of the database as Patroni knows them; nothing if none of its machines answers."""
    answers = _ask(lab, "database", "patroni", "cluster")
    return max((answer["members"] for answer in answers.values()), key=len, default=[])


def database_states(lab: Lab) -> dict[str, str]:
    states = {machine.name: "no answer" for machine in lab.topology.with_role("database")}
    for member in database(lab):
        lag = member.get("lag")
        behind = f", {lag / MiB:.0f} MiB behind" if isinstance(lag, int) and lag >= MiB else ""
        role = {"leader": "primary", "quorum_standby": "replica", "sync_standby": "replica"}.get(
            member["role"], member["role"]
        )
        running = "" if member["state"] in ("running", "streaming") else f", {member['state']}"
        states[member["name"]] = f"{role}{running}{behind}"
    return states


def database_findings(lab: Lab) -> Iterator[Finding]:
    members = {member["name"]: member for member in database(lab)}
    if not any(member["role"] == "leader" and member["state"] == "running" for member in members.values()):
        names = ", ".join(machine.name for machine in lab.topology.with_role("database"))
        yield Finding("database", f"has no primary: nothing is written until a majority of {names} is up", "lab heal")
    for machine in lab.topology.with_role("database"):
        member = members.get(machine.name)
        if not member:
            yield Finding(machine.name, "its database is not a member of the cluster", f"{PROVISION} {machine.name}")
        elif member["role"] != "leader" and member["state"] != "streaming":
            wrong = f"its database does not follow the primary ({member['state']})"
            yield Finding(machine.name, wrong, f"vagrant ssh {machine.name} -c 'sudo journalctl -u patroni'")
        elif isinstance(member.get("lag"), int) and member["lag"] > LAG:
            wrong = f"its database is {member['lag'] / MiB:.0f} MiB behind the primary"
            yield Finding(machine.name, wrong, "wait; lab status shows whether it catches up")


def consensus_states(lab: Lab) -> dict[str, str]:
    states = {machine.name: "no answer" for machine in lab.topology.with_role("consensus")}
    for name, status in _ask(lab, "consensus", "etcd", "v3/maintenance/status", post=True).items():
        leader = status.get("leader", "0")
        own = "leader" if leader == status["header"]["member_id"] else "follower"
        states[name] = own if leader != "0" and not status.get("errors") else "without a leader"
    return states


def consensus_findings(lab: Lab) -> Iterator[Finding]:
    states = consensus_states(lab)
    follow = [name for name, state in states.items() if state in ("leader", "follower")]
    if len(follow) <= len(states) // 2:
        wrong = f"has no majority: {len(follow)} of {len(states)} members answer. The database accepts no writes"
        yield Finding("consensus", wrong, "lab heal")
        return
    answers = _ask(lab, "consensus", "etcd", "v3/cluster/member/list", post=True)
    known: list[dict[str, Any]] = next((answer["members"] for answer in answers.values()), [])
    port = lab.topology.ports["etcd_peer"]
    expected = {f"http://{one.address}:{port}": one.name for one in lab.topology.with_role("consensus")}
    there = {url for member in known for url in member["peerURLs"]}
    for url in sorted(there - expected.keys()):
        yield Finding("consensus", f"has a stale member at {url}", f"etcdctl member remove, on {follow[0]}")
    for url, name in expected.items():
        if url not in there:
            yield Finding(name, "is not a member of the consensus", f"vagrant destroy -f {name} && vagrant up {name}")


def queue_states(lab: Lab) -> dict[str, str]:
    if lab.topology.broker == "redis":
        return {name: redis_state(role) for name, role in redis_roles(lab).items()}
    nodes = {node["name"].partition("@")[2]: node for node in _management(lab, "nodes")}
    running = {name for name, node in nodes.items() if node["running"]}
    names = [machine.name for machine in lab.topology.with_role("queue")]
    leads = Counter(queue["node"].partition("@")[2] for queue in _quorum_queues(lab))
    return {name: f"leads {leads[name]} queues" if name in running else "not running" for name in names}


def queue_findings(lab: Lab) -> Iterator[Finding]:
    names = [machine.name for machine in lab.topology.with_role("queue")]
    if lab.topology.broker == "redis":
        yield from redis_findings(lab, names)
        return
    nodes = {node["name"].partition("@")[2] for node in _management(lab, "nodes") if node["running"]}
    if len(nodes) <= len(names) // 2:
        yield Finding("queue", f"has no majority: {len(nodes)} of {len(names)} nodes of RabbitMQ run", "lab heal")
        return
    for name in sorted(set(names) - nodes):
        yield Finding(name, "its RabbitMQ is not in the cluster", f"{PROVISION} {name}")
    for queue in _quorum_queues(lab):
        if len(queue.get("online", ())) < len(names):
            wrong = f"the queue {queue['name']} has {len(queue.get('online', ()))} of {len(names)} replicas"
            yield Finding("queue", wrong, "wait; RabbitMQ adds missing ones within 20 s of a node's start")


def redis_roles(lab: Lab) -> dict[str, list[Any]]:
    """Return what Redis' command ROLE says on each machine; an empty list if it does not answer."""

    def role(name: str) -> list[Any]:
        try:
            return connect(lab, name, "redis").execute_command("ROLE")
        except RedisError:
            return []

    return for_each([machine.name for machine in lab.topology.with_role("queue")], role)


def redis_state(role: Sequence[Any]) -> str:
    if not role:
        return "no answer"
    return "master" if role[0] == "master" else f"replica{'' if role[3] == 'connected' else f', {role[3]}'}"


def redis_findings(lab: Lab, names: Sequence[str]) -> Iterator[Finding]:
    roles = redis_roles(lab)
    masters = [name for name, role in roles.items() if redis_state(role) == "master"]
    if len(masters) != 1:
        wrong = f"has {len(masters)} masters: {', '.join(masters)}" if masters else "has no master: no task is sent"
        yield Finding("queue", wrong, "wait; the Sentinels appoint one within 10 s, if a majority of them is up")
    for name, role in roles.items():
        if redis_state(role).startswith("replica,"):
            yield Finding(name, f"its Redis does not follow the master ({role[3]})", f"{PROVISION} {name}")
    answers = for_each(list(names), lambda name: _quorum(lab, name))
    for name, problem in answers.items():
        if problem:
            yield Finding(name, f"its Sentinel finds no quorum ({problem})", "lab heal")


def _quorum(lab: Lab, name: str) -> str:
    """Return what a Sentinel complains of; empty if it has a quorum."""
    try:
        connect(lab, name, "sentinel").execute_command("SENTINEL", "CKQUORUM", "lab")
    except RedisError as error:
        return str(error)
    return ""


def connect(lab: Lab, name: str, port: str) -> Redis:
    """Return a connection to the Redis of a machine, or to its Sentinel."""
    topology, wait = lab.topology, lab.seconds(ANSWER)
    return Redis(
        host=topology[name].address,
        port=topology.ports[port],
        password=lab.secrets["redis_password"],
        socket_timeout=wait,
        socket_connect_timeout=wait,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


def _quorum_queues(lab: Lab) -> list[dict[str, Any]]:
    # The statistics keep what a frozen leader said last; without them, RabbitMQ asks the queues.
    return [queue for queue in _management(lab, "queues/airflow?disable_stats=true") if queue["type"] == "quorum"]


def _management(lab: Lab, path: str) -> list[dict[str, Any]]:
    """Return what RabbitMQ's management answers on the first machine that answers; an empty list if none does."""
    login = ("airflow", lab.secrets["rabbitmq_password"])
    answers = _ask(lab, "queue", "rabbitmq_management", f"api/{path}", auth=login)
    return next(iter(answers.values()), [])


def address_states(lab: Lab) -> dict[str, str]:
    holder = address_holder(lab)
    names = [machine.name for machine in lab.topology.with_role("load_balancer")]
    return {name: f"has {lab.topology.address}" if name == holder else "ready" for name in names}


def address_findings(lab: Lab) -> Iterator[Finding]:
    if not address_holder(lab):
        wrong = f"no machine has the address {lab.topology.address}: users reach no api-server"
        yield Finding("load_balancer", wrong, "lab heal")


def address_holder(lab: Lab) -> str:
    """Return the machine that has the address of the load balancers; empty if none answers there."""
    url = f"http://{lab.topology.address}:{lab.topology.ports['load_balancer']}/nginx"
    try:
        return httpx.get(url, timeout=lab.seconds(ANSWER), trust_env=False).headers.get("X-Machine", "")
    except httpx.HTTPError:
        return ""


def _ask(
    lab: Lab, role: str, port: str, path: str, post: bool = False, auth: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Return what the machines with `role` answer over HTTP, by name; those that do not answer are left out."""
    topology = lab.topology

    def ask(name: str) -> Any:
        url = f"http://{topology[name].address}:{topology.ports[port]}/{path}"
        try:
            answer = httpx.request(
                "POST" if post else "GET",
                url,
                json={} if post else None,
                auth=auth,
                timeout=lab.seconds(ANSWER),
                trust_env=False,
            )
            return answer.raise_for_status().json()
        except httpx.HTTPError:
            return None

    answers = for_each([machine.name for machine in topology.with_role(role)], ask)
    return {name: answer for name, answer in answers.items() if answer is not None}


ROLES: dict[str, tuple[Callable[[Lab], dict[str, str]], Callable[[Lab], Iterator[Finding]]]] = {
    "consensus": (consensus_states, consensus_findings),
    "database": (database_states, database_findings),
    "queue": (queue_states, queue_findings),
    "load_balancer": (address_states, address_findings),
}

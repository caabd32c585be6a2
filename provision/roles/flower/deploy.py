"""Flower, a web page about Celery's workers and queues. nginx is in front of it."""

from provision.operations import Context, write_secret
from provision.roles.airflow import deploy as airflow
from provision.roles.airflow import service

ENVIRONMENT = f"{airflow.HOME}/flower.env"


def install() -> None:
    """Airflow's environment contains it."""


def configure(context: Context) -> None:
    if environment := broker_api(context):
        write_secret(environment, ENVIRONMENT)
    # On loopback if nginx is on the same machine: no other machine has to reach Flower.
    address = "127.0.0.1" if context.has("load_balancer") else context.machine.address
    flower = service.Service(
        "airflow-flower",
        "Flower",
        f"airflow celery flower --hostname {address} --port {context.lab.ports['flower_local']}",
        config=airflow.config_of(context.lab.broker),
        environment_file=ENVIRONMENT,
    )
    service.run(context, flower)


def broker_api(context: Context) -> str:
    """Return the environment that tells Flower where to read RabbitMQ's queue lengths; empty with Redis.

    It is not an argument: everyone on a machine sees the arguments of a process.
    """
    if context.lab.broker != "rabbitmq":
        return ""
    endpoint = context.lab.endpoints("queue", "rabbitmq_management")[0]
    return f"FLOWER_BROKER_API=http://airflow:{context.secrets['rabbitmq_password']}@{endpoint}/api/\n"

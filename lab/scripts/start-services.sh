#!/bin/sh
# start-services.sh UNIT…   starts the units that do not run; systemd restarts the others on its own
set -eu
for unit; do
  # Provisioning enables what it has configured: a node of RabbitMQ without its configuration would be a cluster of its own.
  systemctl is-enabled --quiet "$unit" || continue
  case $(systemctl show --value --property ActiveState "$unit") in
    inactive | failed)
      systemctl start "$unit"
      echo started
      ;;
  esac
done

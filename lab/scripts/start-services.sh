#!/bin/sh
# start-services.sh UNIT…   starts the units that do not run; systemd restarts the others on its own
set -eu
for unit; do
  case $(systemctl show --value --property ActiveState "$unit") in
    inactive | failed)
      systemctl start "$unit"
      echo started
      ;;
  esac
done

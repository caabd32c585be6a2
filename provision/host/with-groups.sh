#!/bin/sh
# with-groups.sh COMMAND…   runs COMMAND with the groups that `make up` added the user to after this login
quote() { for word; do printf "'%s' " "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")"; done; } # sg takes one string
for group in docker libvirt libvirtd; do
  if id -nG "$(id -un)" | grep -qw "$group" && ! id -nG | grep -qw "$group"; then exec sg "$group" -c "sh $(quote "$0" "$@")"; fi
done
exec "$@"

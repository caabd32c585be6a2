#!/bin/sh
# restore-network.sh TABLE   removes the rules of TABLE and every delay; prints what it undid
set -eu
if nft delete table "$1" 2>/dev/null; then echo connected; fi
for path in /sys/class/net/*; do
  device=${path##*/}
  if tc qdisc show dev "$device" | grep -qE '^qdisc (netem|tbf)'; then
    tc qdisc del dev "$device" root
    echo fast
  fi
done

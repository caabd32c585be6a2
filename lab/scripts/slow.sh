#!/bin/sh
# slow.sh DELAY LOSS TABLE ADDRESS…   delays what this machine sends to ADDRESSes, and loses LOSS percent of the packets
set -eu
delay=$1 loss=$2 table=$3
shift 3
device=$(ip -o route get "$1" | grep -o 'dev [^ ]*' | cut -c5- | head -1)
tc qdisc add dev "$device" root netem delay "$delay" loss "$loss%" 2>/dev/null && exit
echo 'loss only: this kernel has no netem, so no latency'
addresses=$(IFS=,; echo "$*")
nft -f - <<END
add table $table
add chain $table input { type filter hook input priority -10; }
add rule $table input ip saddr { $addresses } numgen random mod 100 < $loss drop
END

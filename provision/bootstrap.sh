#!/bin/sh
# bootstrap.sh <MACHINE_JSON   provisions the Debian machine on which it runs, as root; idempotent
#
# Writes the document to a file that only root can read, trusts the host's certificates, creates pyinfra's environment, and
# runs deploy.py.
set -eu
export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
here=/vagrant/provision
document=/etc/airflow-lab/machine.json
venv=/opt/pyinfra
logs=/var/log/airflow-lab # on Vagrant's machines, this is the host's folder .lab/logs

# One at a time: provisioning continues on the machine after its `vagrant` was interrupted.
exec 9>/run/airflow-lab.lock
flock --nonblock 9 || { echo "step: Wait for another provisioning of this machine"; flock 9; }

install -d -m 0700 /etc/airflow-lab
(umask 077 && cat >"$document.part")
mv "$document.part" "$document"

if [ ! -x "$venv/bin/python" ]; then
  apt-get update -q
  apt-get install -q -y --no-install-recommends python3 python3-venv ca-certificates iproute2 # `ip` tells where the address goes
fi

eval "$(python3 - "$document" <<'PYTHON'
import json, pathlib, shlex, sys

document = json.load(open(sys.argv[1]))
folder = pathlib.Path("/usr/local/share/ca-certificates")
for name, text in document["certificates"].items():
    if not (folder / name).exists() or (folder / name).read_text() != text:
        (folder / name).write_text(text)
        print("certificates=changed")
for name, value in document["environment"].items():
    print(f"export {name}={shlex.quote(value)}")
print(f"machine={shlex.quote(document['machine'] or '')}")
PYTHON
)"
[ -z "${certificates-}" ] || update-ca-certificates >/dev/null
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt

if ! cmp -s "$here/requirements.lock" "$venv/requirements.lock"; then
  echo "step: Install pyinfra"
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$here/requirements.lock"
  cp "$here/requirements.lock" "$venv/requirements.lock"
fi

cd "$here"
export PYTHONPATH=/vagrant PYTHONDONTWRITEBYTECODE=1
[ -n "$machine" ] || exec "$venv/bin/pyinfra" --yes inventory.py deploy.py # an image: the host shows the progress
mkdir -p "$logs"
python3 progress.py "$logs/$machine.log" ".lab/logs/$machine.log" "$venv/bin/pyinfra" --yes inventory.py deploy.py
for file in /run/airflow-lab/retiring-*; do
  if [ -s "$file" ]; then echo "==> lab: the old worker ends on its own; it waits for $(cat "$file")"; fi
done

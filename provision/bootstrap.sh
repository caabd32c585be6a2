#!/bin/sh
# bootstrap.sh <MACHINE_JSON   brings a Debian machine to its roles; runs on it, as root; idempotent
#
# Keeps the document where only root reads it, trusts the host's certificates, makes pyinfra's environment, and
# hands over to deploy.py.
set -eu
export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
here=/vagrant/provision
document=/etc/airflow-lab/machine.json
venv=/opt/pyinfra

# One at a time: a provisioning whose `vagrant` was interrupted may still be running here.
exec 9>/run/airflow-lab.lock
flock --nonblock 9 || { echo "step: Wait for another provisioning of this machine"; flock 9; }

install -d -m 0700 /etc/airflow-lab
(umask 077 && cat >"$document.part")
mv "$document.part" "$document"

if [ ! -x "$venv/bin/python" ]; then
  apt-get update -q
  apt-get install -q -y --no-install-recommends python3 python3-venv ca-certificates
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
"$venv/bin/pyinfra" --yes inventory.py deploy.py
for file in /run/airflow-lab/retiring-*; do
  if [ -s "$file" ]; then echo "==> lab: the old worker ends by itself; it waits for $(cat "$file")"; fi
done

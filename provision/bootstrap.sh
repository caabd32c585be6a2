#!/bin/sh
# bootstrap.sh MACHINE_JSON   turns a bare Debian machine into its roles; runs inside it, as root, as often as wanted
#
# Takes the document over to where only root reads it, trusts the host's certificates, makes pyinfra's
# environment, and hands over to deploy.py.
set -eu
export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
here=/vagrant/provision
document=/etc/airflow-lab/machine.json

if ! python3 -c 'import ensurepip' 2>/dev/null || ! command -v update-ca-certificates >/dev/null; then
  apt-get update -q
  apt-get install -q -y --no-install-recommends python3 python3-venv ca-certificates
fi

install -d -m 0700 /etc/airflow-lab
install -m 0600 "$1" "$document"
rm -f "$1"

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

venv=/opt/pyinfra
if ! cmp -s "$here/requirements.lock" "$venv/requirements.lock"; then
  echo "step: Install pyinfra"
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$here/requirements.lock"
  cp "$here/requirements.lock" "$venv/requirements.lock"
fi

cd "$here"
export PYTHONPATH=/vagrant PYTHONDONTWRITEBYTECODE=1
exec "$venv/bin/pyinfra" --yes inventory.py deploy.py

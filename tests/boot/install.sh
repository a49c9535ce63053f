#!/usr/bin/env bash
# Installs what `make boot` needs with apt, says what, and fails where it cannot: nothing of these
# tests is ever skipped.  usage: tests/boot/install.sh, as root
#
#   debootstrap                     makes the Debian that is booted
#   util-linux, e2fsprogs, mount    namespaces and the machine's disk
#   dpkg                            builds the packages that are installed in it
#   nodejs, npm                     fetch node-opcua, the machine that the gateway reads
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
modules=$here/../node_opcua

say() { printf '[boot] %s\n' "$*"; }
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

packages=()
have debootstrap || packages+=(debootstrap)
have unshare && have nsenter && have setpriv || packages+=(util-linux)
have mkfs.ext4 || packages+=(e2fsprogs)
have losetup || packages+=(mount)
have dpkg-deb || packages+=(dpkg)
have node || packages+=(nodejs)
have npm || packages+=(npm)

if ((${#packages[@]})); then
  if [[ $(id -u) != 0 ]]; then
    say "missing: ${packages[*]}; run this as root, or apt install ${packages[*]}" >&2
    exit 1
  fi
  say "installing with apt: ${packages[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${packages[@]}" >/dev/null
fi

stamp=$modules/node_modules/.journeyman-installed
if [[ ! -f $stamp || $modules/package-lock.json -nt $stamp ]]; then
  say "installing node-opcua with npm into tests/node_opcua/node_modules"
  (cd "$modules" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
  touch "$stamp"
fi

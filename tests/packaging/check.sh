#!/usr/bin/env bash
# What CI asks of the packages: builds two of them, large and quick, looks at what is in them, and
# has the ARM one compute what this machine computes.  usage: tests/packaging/check.sh PYTHON
#
# Installs with apt what is missing and says what; fails where that cannot be, and skips nothing.
#   dpkg                     builds and unpacks packages
#   debootstrap              fetches the Debian for ARM, once, into build/packaging
#   debian-archive-keyring   by which it knows that Debian signed it
#   qemu-user-static         runs that Debian's programs
#   util-linux               mounts that end with the program
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${1:?usage: tests/packaging/check.sh PYTHON}
targets="deb12-amd64 deb12-arm64"
folder=build/packages

say() { printf '[packages] %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

[[ $(id -u) == 0 ]] || fail "this needs root, to enter the Debian for ARM: sudo make check-packages"
missing=()
have dpkg-deb || missing+=(dpkg)
have debootstrap || missing+=(debootstrap)
[[ -f /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
have qemu-aarch64-static || missing+=(qemu-user-static)
have unshare || missing+=(util-linux)
if ((${#missing[@]})); then
  have apt-get || fail "missing, and no apt here: ${missing[*]}"
  say "installing with apt: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    "${missing[@]}" >/dev/null
fi

rm -rf "$folder"
# Word splitting wanted: a list of packages.
# shellcheck disable=SC2086
PYTHON=$python OUT=$folder COMPRESS=-Znone packaging/build-deb $targets
JOURNEYMAN_TEST_PACKAGES=$folder JOURNEYMAN_TEST_TARGETS=$targets "$python" -m pytest \
  --numprocesses 2 --dist loadfile \
  tests/packaging/check_packages.py tests/packaging/check_computing.py "${@:2}"
rm -rf "$folder"
say "all checks passed, none skipped ($SECONDS s)"

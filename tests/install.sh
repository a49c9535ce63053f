#!/usr/bin/env bash
# Installs what only the tests need, and says what it does. usage: tests/install.sh PYTHON
#
#   PyTorch          into PYTHON's environment, with pip: oracle for the derived gradients
#   mosquitto        with apt: a real broker, and its command-line clients
#   nodejs, npm      with apt: run node-opcua, an OPC UA server that shares no code with asyncua
#   systemd          with apt: systemd-analyze judges the units
#   chromium         with apt: show the coordinator's page in a real browser
#   gcc, libc6-dev   with apt: compile the fault shim (power cuts, full disks, clock jumps)
#   libmodbus-dev, pkg-config  with apt: a Modbus slave of another author
#   socat, shellcheck  with apt: a serial server that passes Modbus RTU over TCP; a reader of all
#                    shell scripts
#   gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm  with apt: firmware on an emulated
#                    Cortex-M3; clang: a second compiler for it, and libFuzzer
#   atheris          into PYTHON's environment, with pip: coverage guides tests/fuzz
#   TFLite           with pip: ai-edge-litert with tflite-micro, and tflite-runtime (Python 3.11),
#                    each in an environment of its own under tests/tflite
#   dp-accounting    with pip, in an environment of its own under tests/dp: what epsilon is compared
#                    with
#
# What cannot be installed (no root, no network) is reported; the tests that need it are then
# skipped with that reason, and pytest counts them. Never fails for that.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${1:?usage: tests/install.sh PYTHON}
TORCH=2.13.0
ATHERIS=3.0.0

say() { printf '[test] %s\n' "$*"; }
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

install_with_apt() {
  local packages=() as_root=()
  have mosquitto || packages+=(mosquitto)
  have mosquitto_sub || packages+=(mosquitto-clients)
  have node || packages+=(nodejs)
  have npm || packages+=(npm)
  have systemd-analyze || packages+=(systemd)
  # Ubuntu's package of that name only fetches a snap; its tests are then skipped.
  have chromium || packages+=(chromium)
  have cc || packages+=(gcc libc6-dev)
  have pkg-config && [[ -f /usr/include/modbus/modbus.h ]] || packages+=(pkg-config libmodbus-dev)
  have make || packages+=(make)
  have socat || packages+=(socat)
  have shellcheck || packages+=(shellcheck)
  have arm-none-eabi-gcc || packages+=(gcc-arm-none-eabi libnewlib-arm-none-eabi)
  have qemu-system-arm || packages+=(qemu-system-arm)
  have clang || packages+=(clang libclang-rt-dev)
  ((${#packages[@]})) || return 0
  if ! have apt-get; then
    say "missing: ${packages[*]}; no apt here, so tests that need them are skipped"
    return 0
  fi
  if [[ $(id -u) != 0 ]]; then
    if ! have sudo || ! sudo -n true 2>/dev/null; then
      say "missing: ${packages[*]}; not root and no sudo without a password, so tests that need" \
        "them are skipped. To run them: apt install ${packages[*]}"
      return 0
    fi
    as_root=(sudo -n)
  fi
  say "installing with apt: ${packages[*]}"
  # policy-rc.d is left alone: a mosquitto service that apt may start listens on loopback only,
  # and the tests start brokers of their own on free ports.
  if ! { "${as_root[@]}" apt-get update -qq &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null; }; then
    say "apt could not install ${packages[*]}; tests that need them are skipped"
  fi
}

install_torch() {
  local found
  found=$("$python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null) ||
    found=none
  [[ ${found%%+*} != "$TORCH" ]] || return 0
  say "installing torch==$TORCH with pip (only tests use it; without a local CPU wheel this is" \
    "the registry's build, on Linux some gigabytes)"
  "$python" -m pip install -q --disable-pip-version-check "torch==$TORCH" ||
    say "pip could not install torch; tests that compare with it are skipped"
}

install_atheris() {
  local found
  found=$("$python" -c 'import importlib.metadata as m; print(m.version("atheris"))' 2>/dev/null) ||
    found=none
  [[ $found != "$ATHERIS" ]] || return 0
  say "installing atheris==$ATHERIS with pip (only tests use it)"
  # Wheels only: building it takes a clang with libFuzzer.
  "$python" -m pip install -q --disable-pip-version-check --only-binary :all: \
    "atheris==$ATHERIS" || say "pip could not install atheris; fuzzing goes on without coverage"
}

install_node_opcua() {
  local stamp="$here/node_opcua/node_modules/.journeyman-installed"
  have npm || return 0
  if [[ -f $stamp && ! $here/node_opcua/package-lock.json -nt $stamp ]]; then return 0; fi
  say "installing node-opcua with npm into tests/node_opcua/node_modules"
  if (cd "$here/node_opcua" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error); then
    touch "$stamp"
  else
    say "npm could not install node-opcua; tests that need it are skipped"
  fi
}

# usage: install_environment GROUP FOLDER PYTHON REQUIREMENTS...; what is installed already stays.
install_environment() {
  local group=$1 folder="$here/$1/$2" base=$3 file stamp
  shift 3
  if [[ ! -x $folder/bin/python ]]; then
    "$base" -m venv --clear "$folder" || {
      say "no virtual environment in $folder; tests that need it are skipped"
      return 0
    }
  fi
  for file in "$@"; do
    stamp="$folder/.installed-$file"
    if [[ -f $stamp && ! $here/$group/$file -nt $stamp ]]; then continue; fi
    say "installing tests/$group/$file with pip into ${folder#"$here"/}"
    if "$folder/bin/python" -m pip install -q --disable-pip-version-check \
      -r "$here/$group/$file"; then
      touch "$stamp"
    else
      say "pip could not install tests/$group/$file; tests that need it are skipped"
    fi
  done
}

install_tflite() {
  local old=$python
  install_environment tflite .venv-litert "$python" litert.txt tflm.txt
  if ! "$old" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then
    old=python3.11
    if ! "$old" -c 'import venv, ensurepip' 2>/dev/null; then
      say "no Python 3.11 for tflite-runtime; tests that need it are skipped"
      return 0
    fi
  fi
  install_environment tflite .venv-runtime "$old" runtime.txt
}

install_with_apt
install_torch
install_atheris
install_node_opcua
install_tflite
install_environment dp .venv-dp "$python" requirements.txt

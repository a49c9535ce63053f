# What the maintainer scripts share; the builder puts it into each of them.
#
# An upgrade that cannot be finished leaves the version before it at work.  preinst keeps that
# version beside the new one ($PREVIOUS; hard links, which cost no room and which dpkg, replacing
# files by renaming, cannot change).  postinst restarts the services that ran, watches them, and
# either deletes what was kept or puts it back and fails ($REFUSED then says which version failed).
# After a power cut in between, undo-journeyman-upgrade.service puts it back at boot ($UPGRADING, in
# memory, tells that there was none).

TREE=/opt/journeyman
PREVIOUS=/opt/journeyman.previous
REFUSED=/opt/journeyman.refused
UPGRADING=/run/journeyman.upgrading
UNITS=/usr/lib/systemd/system

# A service must be active without a restart for STEADY_S seconds; until then, DEADLINE_S at most.
# Above the units' TimeoutStopSec and TimeoutStartSec together.
STEADY_S=10
DEADLINE_S=150
# It is given up earlier when systemd has restarted it so often.
RESTARTS=3

say() { printf 'journeyman: %s\n' "$*" >&2; }

systemd_runs() { [ -d /run/systemd/system ]; }

# Services in one of the states $1 (systemctl's names, with commas), one a line.
services() {
    systemctl list-units --type=service --state="$1" --plain --no-legend --full 'journeyman-*' |
        while read -r unit _; do printf '%s\n' "$unit"; done
}

# Read units, rules, users and folders again, as files in /usr/lib say now.
read_again() {
    if systemd_runs; then
        systemctl daemon-reload || say "systemctl daemon-reload failed"
        # Its socket: without udevd, as in a container, there is nobody to tell.
        if [ -S /run/udev/control ]; then udevadm control --reload || say "udevadm failed"; fi
    fi
}

all_active() {
    for unit; do systemctl is-active --quiet "$unit" || return 1; done
}

given_up() {
    for unit; do
        restarts=$(systemctl show --property=NRestarts --value "$unit")
        if [ "${restarts:-0}" -ge "$RESTARTS" ] || systemctl is-failed --quiet "$unit"; then
            return 0
        fi
    done
    return 1
}

# Whether all services named become active and then stay so, each in one and the same run.
stay_active() {
    [ $# -gt 0 ] || return 0
    steady=0 waited=0 runs=
    while [ "$waited" -lt "$DEADLINE_S" ]; do
        now=$(systemctl show --property=InvocationID --value "$@")
        if ! all_active "$@"; then
            steady=0
            if given_up "$@"; then return 1; fi
        elif [ "$now" = "$runs" ]; then
            steady=$((steady + 1))
        else
            steady=0
        fi
        runs=$now
        if [ "$steady" -ge "$STEADY_S" ]; then return 0; fi
        sleep 1
        waited=$((waited + 1))
    done
    return 1
}

# The package's files outside its tree and /etc, as dpkg lists them now: units, rules, links.
files_elsewhere() {
    dpkg-query --listfiles journeyman | while read -r file; do
        case $file in "$TREE" | "$TREE"/* | /etc/*) continue ;; esac
        if [ -L "$file" ] || [ -f "$file" ]; then printf '%s\n' "$file"; fi
    done
}

# Put the version that was kept in the place of the one that is installed.
put_back() {
    files_elsewhere | while read -r file; do rm -f "$file"; done
    rm -rf "$TREE.failed"
    if [ -d "$TREE" ]; then mv "$TREE" "$TREE.failed"; fi
    mv "$PREVIOUS/tree" "$TREE"
    (cd "$PREVIOUS/elsewhere" && find . ! -type d -print) | while read -r file; do
        mkdir -p "$(dirname "/$file")"
        cp -a "$PREVIOUS/elsewhere/$file" "/$file"
    done
    rm -rf "$TREE.failed"
    read_again
}

# The upgrade has ended, one way or the other.
forget() {
    rm -rf "$PREVIOUS"
    rm -f "$UPGRADING"
}

# Note which version was undone, since postinst would otherwise take the tree for that version's,
# and on a second line which one ($1) is in place, since dpkg does not know it.
refuse() {
    # The format is dpkg's, not the shell's.
    # shellcheck disable=SC2016
    { dpkg-query --show --showformat='${Version}\n' journeyman || echo unknown; } >"$REFUSED"
    printf '%s\n' "$1" >>"$REFUSED"
}

# Services that ran before: those that were active ($1 = active), or that tried to be (trying).
recorded() {
    if [ -f "$PREVIOUS/$1" ]; then cat "$PREVIOUS/$1"; fi
}

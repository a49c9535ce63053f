#!/usr/bin/env bash
# Whether this machine lets root do what a boot takes: namespaces, a loop device, an overlay, cgroups.
# Says what it does not let, and fails then.  usage: tests/boot/possible.sh, as root
#
# Only for machines whose owner decides that, such as a CI runner in a container of few rights; where
# it succeeds, nothing of `make boot` is ever skipped.
set -uo pipefail
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
trap 'umount -q "$work/all" "$work/disk" 2>/dev/null; rm -rf "$work"' EXIT

no() { echo "[boot] this machine does not allow $1" >&2; exit 1; }

[[ $(id -u) == 0 ]] || no "to be root"
unshare --fork --pid --mount --uts --ipc --net --propagation private true 2>/dev/null ||
  no "new namespaces"
mkdir "$work"/{disk,all}
{ truncate -s 16M "$work/file" && mkfs.ext4 -q "$work/file"; } 2>/dev/null || no "an ext4 in a file"
mount -o loop "$work/file" "$work/disk" 2>/dev/null || no "to mount a loop device"
mkdir "$work"/disk/{upper,work}
mount -t overlay -o "lowerdir=/etc,upperdir=$work/disk/upper,workdir=$work/disk/work" overlay \
  "$work/all" 2>/dev/null || no "an overlay"
for root in /sys/fs/cgroup/unified /sys/fs/cgroup; do
  [[ $(stat -f -c %T "$root" 2>/dev/null) == cgroup2fs ]] || continue
  mkdir "$root/journeyman-probe-$$" 2>/dev/null || no "a control group of one's own"
  rmdir "$root/journeyman-probe-$$"
  exit 0
done
no "control groups (version 2)"

#!/bin/bash
# Turns the namespaces it is started in into a machine, and itself into that machine's systemd.
# usage: boot.sh ROOT, as the first process of new pid, mount, uts, ipc, net and cgroup namespaces
#
# What a container manager would do for systemd (https://systemd.io/CONTAINER_INTERFACE): API file
# systems, the few harmless devices, /sys for reading alone, and a root that is no chroot, because
# the kernel gives a process in a chroot no user namespace, which PrivateUsers= needs.
set -euo pipefail
root=${1:?usage: boot.sh ROOT}

# pivot_root takes a mount point only, and this one must not be shared with the old namespace.
mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec,ro sysfs sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
# 0755: with the 1777 of a plain tmpfs, systemd takes what services put there for an attack.
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp
mount -t tmpfs -o nosuid,mode=0755 tmpfs dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
touch dev/console
hostname gateway

mkdir -p .outside
pivot_root . .outside
cd /
umount -l /.outside
# PrivateMounts= and the like are received by services from a shared root.
mount --make-rshared /
exec env -i container=journeyman-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --show-status=0 systemd.unit=multi-user.target

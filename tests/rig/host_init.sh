#!/bin/bash
# Process 1 of a rig's host: make the machine's file system a copy-on-write one of the host's own, then only reap.
# Arguments: the host's name, the folder on a real disk for what is large (docker's images, /data, /tmp, homes), and
# folders that are the machine's own on the host, too, though they lie in one of those.
# Says "ready" on stdout. What is written elsewhere lives in memory and ends with the host.
set -euo pipefail
name=$1 disk=$2
mount --make-rprivate /
hostname "$name"
mount -t tmpfs -o mode=755 tmpfs /mnt       # not on the disk: an overlay's upper layer must not lie inside its lower one
mkdir /mnt/{upper,work,root}
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
cd /mnt/root
mkdir -p .machine data proc sys dev run tmp root home var/lib/docker var/tmp
mount -t proc proc proc
mount -t sysfs sysfs sys                    # the host's own network, under /sys/class/net
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777,size=12g tmpfs dev/shm
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/sshd run/lock
for place in data home root tmp; do
    mkdir -p "$disk/$place"
    mount --bind "$disk/$place" "$place"
done
for place in "${@:3}"; do
    mkdir -p ".$place"
    mount --bind "$place" ".$place"
done
chmod 700 root
chmod 1777 tmp
mkdir -p "$disk/docker"
mount --bind "$disk/docker" var/lib/docker
rm -f usr/local/bin/docker etc/ssh/ssh_host_* etc/ssh/ssh_known_hosts
: >etc/resolv.conf                          # no DNS: names are those of /etc/hosts
pivot_root . .machine
umount -l /.machine
rmdir /.machine
exec docker-init -s -- bash -c 'echo ready; exec >/dev/null; exec sleep infinity'

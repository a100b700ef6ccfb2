#!/bin/sh
# Becomes user 1000 in what a kubelet makes of the chart's pods, then runs its arguments: no file can be written
# but below /tmp, /dev/shm and /var/lib/mizzen, no privilege can be gained, and processes and network are its own.
#
# To be run by root under `unshare --mount --net --pid --fork --mount-proc`. KEEP names folders that must stay
# readable though they lie where other things are mounted, separated by colons.
set -eu
mount --make-rprivate /
ip link set lo up

mount -t tmpfs -o mode=755 tmpfs /mnt
number=0
old_ifs=$IFS
IFS=:
for folder in $KEEP; do
    number=$((number + 1))
    mkdir "/mnt/$number"
    mount --bind "$folder" "/mnt/$number"
done
for hidden in /root /home /var/lib; do
    mount -t tmpfs -o mode=755 tmpfs "$hidden"
done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
number=0
for folder in $KEEP; do
    number=$((number + 1))
    [ -e "$folder" ] || mkdir -p "$folder"
    mount --bind "/mnt/$number" "$folder"
    mount -o remount,ro,bind "$folder"
done
IFS=$old_ifs

mkdir -p /var/lib/mizzen
mount -t tmpfs -o mode=700,uid=1000,gid=1000 tmpfs /var/lib/mizzen
mount -o remount,ro,bind /
cd /var/lib/mizzen
export HOME=/var/lib/mizzen MIZZEN_HOME=/var/lib/mizzen
exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"

#!/bin/sh
# PID 1 of a smoke test: does what envd would, runs /smoke.sh as `user`, says how it ended, resets.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
ip link set lo up
hostname sandbox

resize2fs /dev/vda 2>&1
cd /home/user || exit 1
HOME=/home/user USER=user setpriv --reuid=user --regid=user --init-groups /bin/sh /smoke.sh
status=$?
dmesg | grep -E 'EXT4-fs (error|warning)' && status=1
sync
echo "smoke test ended with status $status"
echo b >/proc/sysrq-trigger

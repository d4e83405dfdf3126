#!/usr/bin/env bash
# Lists what is left on the machine of a Wrenn whose data folder is $1: processes, mounts, loop devices. Prints
# nothing when there is nothing.
set -euo pipefail
data=$1
for environ in /proc/[0-9]*/environ; do
  # It may have ended since it was listed, and kernel threads have no environment.
  if { tr '\0' '\n' <"$environ"; } 2>/dev/null | grep -q "^WRENN_[A-Z_]*=.*$data"; then
    pid=${environ#/proc/}; pid=${pid%/environ}
    [ "$pid" = $$ ] || [ "$pid" = "$PPID" ] || echo "process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
  fi
done
grep -F " $data" /proc/self/mountinfo | awk '{print "mount " $5}' || true
for backing in /sys/block/loop*/loop/backing_file; do
  if [ -e "$backing" ] && grep -qF "$data" "$backing"; then echo "loop device of $(cat "$backing")"; fi
done

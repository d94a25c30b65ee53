#!/usr/bin/env bash
# enter_root.sh LOWER COMMAND...: runs a command in a fresh root: LOWER's files, and whatever is changed stays in memory
# and goes with the command. Entered by pivot_root in a mount namespace, as bubblewrap does not run inside a chroot.
# Folders named in SHOWN (separated by colons) appear at their own paths, read-only.
set -euo pipefail
lower=$1; shift
if [ "${INSIDE:-}" != yes ]; then
  INSIDE=yes exec unshare --mount --pid --fork --kill-child "$0" "$lower" "$@"
fi
mount --make-rprivate /
scratch=/run/fresh-root
mkdir -p "$scratch"
mount -t tmpfs -o size=4g,mode=755 none "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
IFS=: read -ra shown <<< "${SHOWN:-}"
for folder in "${shown[@]}"; do
  above=$(dirname "$folder")
  while [ "$above" != / ]; do mkdir -p ".$above"; chmod o+x ".$above"; above=$(dirname "$above"); done
  if [ "$lower" != / ]; then
    mkdir -p ".$folder"
    mount --bind "$folder" ".$folder"
    mount -o remount,bind,ro ".$folder"
  fi
done
mkdir -p proc dev sys tmp run
mount -t proc proc proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs -o mode=1777 none tmp
mount -t tmpfs -o mode=755 none run
mkdir -p old
pivot_root . old
umount -l /old
rmdir /old
cd /
unset INSIDE SHOWN
exec "$@"

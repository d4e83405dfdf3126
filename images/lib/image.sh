# A finished image: the template's file system with envd and kernels inside, and its manifest.
# $images is the caller's: this folder.
# shellcheck shell=bash disable=SC2154

# image_make ROOTFS_DIR ENVD NAME DIGEST KERNEL_DIGEST OUT
image_make() {
  local rootfs=$1 envd=$2 name=$3 digest=$4 kernel=$5 out=$6
  phase "adding envd"
  cp --sparse=always --reflink=auto "$rootfs/rootfs.ext4" "$out/rootfs.ext4"
  ext4_add "$out/rootfs.ext4" "$envd" /usr/local/bin/envd
  kernels_add "$out/rootfs.ext4"
  cp "$rootfs/packages.txt" "$out/packages.txt"
  manifest "$name" "$digest" "$(envd_version "$envd")" "$kernel" >"$out/manifest.json"
}

# KERNELS is where the programs of code interpreter contexts (images/kernels) are in a guest.
KERNELS=/usr/local/lib/wrenn

# kernels_add IMAGE adds the kernels of the languages that the image has a program for.
kernels_add() {
  local image=$1 file
  local -a files=()
  if ext4_has "$image" /usr/bin/python3; then files+=(kernel-python kernel.py kernel_requests.py kernel_wire.py kernel_result.py); fi
  if ext4_has "$image" /usr/local/bin/node; then files+=(kernel-javascript kernel.mjs kernel_io.mjs); fi
  [ ${#files[@]} -gt 0 ] || return 0
  debugfs -w -R "mkdir $KERNELS" "$image" >/dev/null 2>&1
  for file in "${files[@]}"; do ext4_add "$image" "$images/kernels/$file" "$KERNELS/$file"; done
}

ext4_has() { debugfs -R "stat $2" "$1" 2>/dev/null | grep -q '^Inode:'; }

# kernels_digest hashes the kernels, not their tests.
kernels_digest() { files_digest "$images"/kernels/{kernel-*,*.py,*.mjs}; }

# ext4_add IMAGE FILE PATH writes an executable, owned by root, into an image that is not mounted.
# debugfs reports no failure in its status, so the result is read back.
ext4_add() {
  local image=$1 file=$2 path=$3
  debugfs -w -f - "$image" >/dev/null 2>&1 <<CMD
cd $(dirname "$path")
write $file $(basename "$path")
set_inode_field $path mode 0100755
set_inode_field $path uid 0
set_inode_field $path gid 0
CMD
  debugfs -R "cat $path" "$image" 2>/dev/null | cmp -s - "$file" || { echo "writing $path into $image failed"; return 1; }
  e2fsck -fn "$image" >/dev/null 2>&1 || { echo "$image is damaged:"; e2fsck -fn "$image"; return 1; }
}

# envd_version is what the binary says of itself, with the start of its hash as build metadata.
envd_version() {
  local version
  version=$(timeout 2 "$1" -version 2>/dev/null </dev/null | grep -E '^[A-Za-z0-9._-]+$') || version=unknown
  echo "$version+$(sha256sum "$1" | cut -c1-12)"
}

# manifest prints manifest.json. template.conf holds no text that JSON would have to quote.
manifest() {
  (
    # shellcheck source=/dev/null
    . "$images/templates/$1/template.conf"
    cat <<JSON
{
  "name": "$1",
  "digest": "sha256:$2",
  "description": "$DESCRIPTION",
  "disk_mib": $DISK_MIB,
  "default_vcpus": $DEFAULT_VCPUS,
  "default_memory_mib": $DEFAULT_MEMORY_MIB,
  "default_user": "user",
  "envd_version": "$3",
  "kernel_digest": "sha256:$4",
  "built_at": "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
}
JSON
  )
}

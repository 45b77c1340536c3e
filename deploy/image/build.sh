#!/bin/sh
# Puts binaries of this machine, and the libraries they need, into an image made from scratch.
#   build.sh DIRECTORY-OF-BINARIES IMAGE
set -eu
binaries=$1
image=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT INT TERM

mkdir -p "$root/usr/bin" "$root/etc" "$root/tmp" "$root/var/lib" "$root/run"
chmod 1777 "$root/tmp"
for name in hauberk-control-plane hauberk-agent hauberk; do
    cp "$binaries/$name" "$root/usr/bin/$name"
    strip "$root/usr/bin/$name" 2>/dev/null || true
    # "libc.so.6 => /lib/…/libc.so.6 (0x…)" and "/lib64/ld-linux… (0x…)"
    ldd "$binaries/$name" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }'
done | sort -u | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# Names are resolved by glibc, which loads these when asked and ldd does not show.
for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
    found=$(ldconfig -p | awk -v name="$library" '$1 == name { print $NF; exit }')
    if [ -n "$found" ]; then
        mkdir -p "$root$(dirname "$found")"
        cp -L "$found" "$root$found"
    fi
done
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
printf 'root:x:0:0:root:/:/sbin/nologin\nhauberk:x:65532:65532:hauberk:/:/sbin/nologin\n' > "$root/etc/passwd"
printf 'root:x:0:\nhauberk:x:65532:\n' > "$root/etc/group"
cp "$here/Dockerfile.scratch" "$root/Dockerfile"
docker build --quiet --tag "$image" "$root"

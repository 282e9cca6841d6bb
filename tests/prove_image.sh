#!/usr/bin/env bash
# Proves the Dockerfile where there is no Docker engine:  tests/prove_image.sh FOLDER
#
# Builds the CPU image with buildah, on a base of Debian's own packages in place of Docker Hub's,
# then runs it as its user on a root that cannot be written. Needs root on Debian, the packages
# buildah, debootstrap and curl, 6 GB in FOLDER and the minutes that compiling llama.cpp takes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mkdir -p "$1" && realpath "$1")
image=workers-ai-emulator
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

if ! buildah inspect --type image docker.io/library/python:3.11-slim-trixie > "$work/base.json" 2> "$work/base.log"; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$work/base"
    # What this machine trusts: its registries may be mirrors.
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$work/base/etc/pip.conf"
    base=$(buildah from scratch)
    buildah add -q "$base" "$work/base" /
    buildah config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$base"
    buildah commit -q "$base" docker.io/library/python:3.11-slim-trixie
fi

# Older versions of buildah miss stages that an argument names; CUDA's bases are not there.
sed -e 's/\${DEVICE}/cpu/' -e '/nvidia/,/^$/d' Dockerfile > "$work/Dockerfile"
buildah bud --layers --pull-never --format docker --tag "$image" --file "$work/Dockerfile" .

container=$(buildah from --pull-never "$image")
trap 'buildah rm "$container" > /dev/null' EXIT
root=$(buildah mount "$container")
for part in "$root" "$work/base" "$root/opt/venv"; do
    du --summarize --block-size=1M "$part"  # MiB of the image, its base, and our files in it
done
mkdir -p "$work/models"
chown 10001:10001 "$work/models"

# In a namespace, whose mounts and processes end with it.
export root work
unshare --mount --pid --fork --kill-child bash -euo pipefail << 'INSIDE'
mount --bind "$root" "$root"
mount --bind "$work/models" "$root/models"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
inside=(chroot --userspec=10001:10001 --groups= "$root" env -i HOME=/models PYTHONUNBUFFERED=1
    PATH=/opt/venv/bin:/usr/bin:/bin WORKERS_AI_EMULATOR_HOST=0.0.0.0
    WORKERS_AI_EMULATOR_MODELS_DIR=/models)
path=client/v4/accounts/0123456789abcdef0123456789abcdef/ai/run/@cf/meta/llama-2-7b-chat-int8
body='{"messages": [{"role": "user", "content": "Why is pizza so good"}], "max_tokens": 20}'
if "${inside[@]}" touch /tmp/file; then
    echo "the root can be written" >&2
    exit 1
fi
"${inside[@]}" workers-ai-emulator serve &
server=$!
"${inside[@]}" workers-ai-emulator wait --timeout 120
curl -fsS -H "Authorization: Bearer x" "http://127.0.0.1:8790/$path" -d "$body"
echo
curl -fsS "http://127.0.0.1:8790/_emulator/" > "$work/page.html"

mount -t tmpfs tmpfs "$root/tmp"
"${inside[@]}" workers-ai-emulator exec -- python3 -c 'if True:
    import sys, urllib.request
    headers = {"Authorization": "Bearer x"}
    request = urllib.request.Request(sys.argv[1], sys.argv[2].encode(), headers)
    print(urllib.request.urlopen(request).read().decode())
' "https://api.cloudflare.com/$path" "$body"
kill "$server"
wait "$server"
INSIDE

#!/usr/bin/env bash
# Builds and tests the image on a machine without a Docker engine:  tests/prove_image.sh FOLDER
#
# Builds the CPU image with buildah, on a base image made of Debian's packages instead of Docker
# Hub's, and runs it as its own user on a read-only root. Needs root on Debian, the packages
# buildah, debootstrap and curl, 6 GB in FOLDER, and some minutes to compile llama.cpp.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mkdir -p "$1" && realpath "$1")
image=workers-ai-emulator
export BUILDAH_ISOLATION=chroot
buildah() { command buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

if ! buildah inspect --type image docker.io/library/python:3.11-slim-trixie > "$work/base.json" 2> "$work/base.log"; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates trixie "$work/base"
    # The image trusts the certificates of this machine, whose package registries may be mirrors.
    cp /etc/ssl/certs/ca-certificates.crt "$work/base/etc/ssl/certs/"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$work/base/etc/pip.conf"
    base=$(buildah from scratch)
    buildah add -q "$base" "$work/base" /
    buildah config --env PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$base"
    buildah commit -q "$base" docker.io/library/python:3.11-slim-trixie
fi

# Older versions of buildah cannot resolve `FROM build-${DEVICE}`. The stages of CUDA are deleted
# because their base images are not available.
sed -e 's/\${DEVICE}/cpu/' -e '/nvidia/,/^$/d' Dockerfile > "$work/Dockerfile"
buildah bud --layers --pull-never --format docker --tag "$image" --file "$work/Dockerfile" .

container=$(buildah from --pull-never "$image")
trap 'buildah rm "$container" > /dev/null' EXIT
root=$(buildah mount "$container")
for part in "$root" "$work/base" "$root/opt/venv"; do
    du --summarize --block-size=1M "$part"  # MiB of the image, of its base, and of our files
done
mkdir -p "$work/models"
chown 10001:10001 "$work/models"

# The namespace ends the mounts and processes when the script exits.
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
run=client/v4/accounts/0123456789abcdef0123456789abcdef/ai/run
path=$run/@cf/meta/llama-2-7b-chat-int8
body='{"messages": [{"role": "user", "content": "Why is pizza so good"}], "max_tokens": 20}'
if "${inside[@]}" touch /tmp/file; then
    echo "the root is not read-only" >&2
    exit 1
fi
"${inside[@]}" workers-ai-emulator serve &
server=$!
"${inside[@]}" workers-ai-emulator wait --timeout 120
curl -fsS -H "Authorization: Bearer x" "http://127.0.0.1:8790/$path" -d "$body"
echo
curl -fsS -H "Authorization: Bearer x" "http://127.0.0.1:8790/$run/@cf/baai/bge-small-en-v1.5" \
    -d '{"text": "Why is pizza so good"}' > "$work/embedding.json"
head --bytes 100 "$work/embedding.json"
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

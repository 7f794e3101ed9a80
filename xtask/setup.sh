#!/bin/sh
# Installs what building, demo and tests need from Debian (and Rust through rustup where there is no cargo).
# Does nothing when all is there; needs root only when something is missing. Groups: demo, test, bench.
set -eu

wanted="gcc libc6-dev musl-tools make ca-certificates qemu-system-x86 debian-archive-keyring"
case "${1:-demo}" in
demo) wanted="$wanted busybox-static docker-registry openssh-client curl" ;;
test) wanted="$wanted busybox-static procps apparmor debootstrap docker-registry docker.io podman iptables git xz-utils zstd openssh-client openssl curl nftables iproute2 runc crun python3-venv docker-compose gcc-mingw-w64-x86-64-posix wine64" ;;
bench) wanted="$wanted busybox-static docker-registry openssh-client curl docker.io podman containernetworking-plugins runc crun iptables iproute2 iperf3" ;;
*) echo "setup: unknown group '$1' (demo, test, bench)" >&2; exit 2 ;;
esac

missing=""
for package in $wanted; do
    # The status must be "installed": removed packages are listed too.
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done

if [ -n "$missing" ]; then
    echo "setup: installing$missing"
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "setup: run as root: apt-get install$missing" >&2; exit 1; }
        as_root="sudo"
    fi
    # Packages like docker-registry would start a daemon at once; nobody asked for that.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
        $as_root chmod 755 "$policy"
        trap '$as_root rm -f "$policy"' EXIT
    fi
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
    # shellcheck disable=SC2086 # a list of words on purpose
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "setup: installing Rust with rustup"
    # Not piped: a shell that reads nothing succeeds.
    installer=$(mktemp)
    curl --proto '=https' --tlsv1.2 -sSf -o "$installer" https://sh.rustup.rs || {
        rm -f "$installer"
        echo "setup: rustup's installer cannot be fetched; install rustup by hand (https://rustup.rs) and run this again" >&2
        exit 1
    }
    sh "$installer" -y --profile minimal --default-toolchain none
    rm -f "$installer"
fi
PATH="$HOME/.cargo/bin:$PATH"
# rust-toolchain.toml names version, components and targets; asking for the version fetches them, unless rustup was told
# not to install by itself.
if ! cargo --version >/dev/null 2>&1; then
    version=$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$(dirname "$0")/../rust-toolchain.toml")
    rustup toolchain install "$version" --profile minimal --component clippy --component rustfmt
fi
if command -v rustup >/dev/null; then
    rustup target list --installed | grep -qx x86_64-unknown-linux-musl || rustup target add x86_64-unknown-linux-musl
fi

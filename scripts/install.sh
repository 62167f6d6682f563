#!/usr/bin/env bash
# Installs what is missing for a purpose; does nothing where all is there.
#   install.sh build   what compiling needs
#   install.sh parts   build, and the real servers a fleet runs on (Redis, Kafka's jars)
#   install.sh peers   parts, and the servers that Herald is measured beside (nginx with nchan, nats-server)
#   install.sh test    parts, and what the tests drive (Cassandra's jars, Chromium, conformance suite, an SMTP server and judges of DKIM and OpenAPI, grpcurl, Prometheus, strace, a systemd)
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=${1:?build, parts, peers or test}
cache=${HERALD_CACHE:-$PWD/.cache}
mkdir -p "$cache"

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# packages COMMAND-OR-FILE=PACKAGE …: installs the packages whose command or file is not there.
packages() {
  local missing=() pair
  for pair in "$@"; do
    local probe=${pair%%=*} package=${pair#*=}
    case $probe in
      /*) [ -e "$probe" ] || missing+=("$package") ;;
      *) command -v "$probe" >/dev/null || missing+=("$package") ;;
    esac
  done
  [ ${#missing[@]} = 0 ] && return
  echo "installing: ${missing[*]}"
  as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$cache/apt.log" 2>&1 ||
    { tail -20 "$cache/apt.log"; exit 1; }
}

build() {
  packages cc=build-essential cmake=cmake pkg-config=pkg-config \
    /usr/include/openssl/ssl.h=libssl-dev /usr/include/zlib.h=zlib1g-dev \
    "/usr/include/$(uname -m)-linux-gnu/curl/curl.h=libcurl4-openssl-dev"
  if ! command -v cargo >/dev/null; then
    command -v rustup >/dev/null || { echo "cargo is missing: install rustup first"; exit 1; }
    rustup toolchain install stable --profile minimal --component clippy,rustfmt
  fi
}

parts() {
  build
  packages redis-server=redis-server java=openjdk-17-jre-headless mvn=maven curl=curl
  # The package starts a server of its own; Herald's scripts start theirs.
  if [ -d /run/systemd/system ]; then as_root systemctl disable --now redis-server 2>/dev/null || true; fi
  HERALD_CACHE=$cache scripts/kafka.sh jars
}

peers() {
  parts
  packages nginx=nginx /usr/lib/nginx/modules/ngx_nchan_module.so=libnginx-mod-nchan nats-server=nats-server
  # As above: the packages start servers of their own.
  if [ -d /run/systemd/system ]; then as_root systemctl disable --now nginx nats-server 2>/dev/null || true; fi
}

tests() {
  parts
  packages /usr/sbin/haproxy=haproxy chromium=chromium strace=strace node=nodejs npm=npm systemd-analyze=systemd \
    faketime=faketime ss=iproute2 promtool=prometheus prometheus-alertmanager=prometheus-alertmanager \
    /usr/share/fonts/truetype/dejavu=fonts-dejavu-core python3=python3
  # As Redis's: the packages start servers of their own.
  if [ -d /run/systemd/system ]; then as_root systemctl disable --now prometheus prometheus-alertmanager 2>/dev/null || true; fi
  [ -x "$cache/python/bin/kosoku" ] && [ -x "$cache/python/bin/aiosmtpd" ] && [ -x "$cache/python/bin/dkimverify" ] && [ -x "$cache/python/bin/openapi-spec-validator" ] || {
    python3 -m venv "$cache/python" 2>/dev/null || { packages /nonexistent=python3-venv; python3 -m venv "$cache/python"; }
    "$cache/python/bin/pip" install -q 'kosoku==0.1.0' 'aiosmtpd==1.4.6' 'dkimpy==1.1.8' 'pynacl==1.6.2' 'openapi-spec-validator==0.7.2'
  }
  HERALD_CACHE=$cache scripts/cassandra.sh jars
  [ -d "$cache/browser/node_modules/playwright-core" ] ||
    npm install --silent --no-fund --no-audit --prefix "$cache/browser" 'playwright-core@1.64.1'
  # Another client of gRPC than ours. Without Go that test is skipped.
  if [ ! -x "$cache/go/bin/grpcurl" ]; then
    if command -v go >/dev/null; then
      GOBIN=$cache/go/bin go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 ||
        echo "this Go can't build it: gRPC is not tried with grpcurl"
    else
      echo "no Go: gRPC is not tried with grpcurl"
    fi
  fi
  systemd_root
}

# A small Debian in a folder, in which the units are started by a real systemd. Without it that test is skipped.
systemd_root() {
  local root=$cache/systemd
  [ -f "$root/complete" ] && return
  [ "$(id -u)" = 0 ] || { echo "not root: the units are not tried under a real systemd"; return; }
  packages debootstrap=debootstrap systemd-nspawn=systemd-container nsenter=util-linux
  rm -rf "$root"
  mkdir -p "$root"
  # Of the same release as this host: the binary is linked with its libraries.
  if debootstrap --variant=minbase --include=systemd,systemd-sysv,openssl,zlib1g \
    "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root/root" >"$cache/debootstrap.log" 2>&1; then
    touch "$root/complete"
  else
    echo "no folder for systemd (see $cache/debootstrap.log): the units are not tried under a real one"
  fi
}

case $purpose in
  build) build ;;
  parts) parts ;;
  peers) peers ;;
  test) tests ;;
  *) echo "install.sh: unknown purpose $purpose"; exit 64 ;;
esac

#!/bin/sh
# What must be there before cargo runs: finds it, installs it where it may, else says in one sentence what to do.
#   scripts/deps.sh build     Rust and a C compiler
#   scripts/deps.sh python    Python 3.10 with venv
#   scripts/deps.sh java      Java 17 for Spark
#   scripts/deps.sh dataset   Fashion-MNIST as a Debian package; without it `sparknet dataset` downloads it
set -eu
cd "$(dirname "$0")/.."

stop() {
    echo "$*" >&2
    exit 1
}

# True where packages can be installed without asking anybody: by root, or by sudo without a password.
may_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null
}

install_packages() {
    echo "installing with apt-get: $*"
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    # An index that cannot be refreshed may still name the package.
    $as_root apt-get update -qq || true
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

require_rust() {
    command -v cargo >/dev/null || stop "cargo is missing: install Rust from https://rustup.rs, then run make again"
    needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    oldest=$(printf '%s\n%s\n' "$needed" "${found%%-*}" | sort -V | head -n 1)
    [ "$oldest" = "$needed" ] ||
        stop "rustc is $found and SparkNet needs $needed: run 'rustup update stable' or get Rust from https://rustup.rs"
}

# Compiles and links a program: a compiler may be there without the C library's headers.
c_compiler_works() {
    program=$(mktemp)
    works=0
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
        "${CC:-cc}" -x c -o "$program" - >/dev/null 2>&1 || works=1
    rm -f "$program"
    return $works
}

require_c_compiler() {
    c_compiler_works && return
    may_install || stop "a C compiler is missing (LMDB is built from its C source): install one" \
        "(Debian and Ubuntu: 'sudo apt-get install gcc libc6-dev'), then run make again"
    install_packages gcc libc6-dev ||
        stop "apt-get could not install gcc and libc6-dev: install a C compiler, then run make again"
    c_compiler_works ||
        stop "${CC:-cc} cannot compile a C program: set CC to a compiler that can, then run make again"
}

offer_fashion_mnist() {
    [ ! -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || return 0
    if ! may_install || ! install_packages dataset-fashion-mnist; then
        echo "the package dataset-fashion-mnist cannot be installed here: sparknet downloads Fashion-MNIST instead"
    fi
}

python_works() {
    "${PYTHON:-python3}" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null
}

require_python() {
    python_works && return
    may_install || stop "Python 3.10 or newer with venv is missing: install it" \
        "(Debian and Ubuntu: 'sudo apt-get install python3-venv'), or set PYTHON to one, then run make again"
    install_packages python3-venv || true
    python_works || stop "${PYTHON:-python3} is older than 3.10 or has no venv: set PYTHON to another, then run make again"
}

java_works() {
    version=$("${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
    [ "${version:-0}" -ge 17 ]
}

require_java() {
    java_works && return
    may_install || stop "Spark 4 wants Java 17 or newer: install it" \
        "(Debian and Ubuntu: 'sudo apt-get install openjdk-17-jre-headless'), then run make again"
    install_packages openjdk-17-jre-headless || true
    java_works || stop "java is missing or older than 17: set JAVA_HOME to Java 17 or newer, then run make again"
}

case "${1:-}" in
    python) require_python ;;
    java) require_java ;;
    build) require_rust && require_c_compiler ;;
    dataset) offer_fashion_mnist ;;
    *) stop "usage: scripts/deps.sh build|python|java|dataset" ;;
esac

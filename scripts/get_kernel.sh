#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-only
# Fetches a kernel tree for `septum kernel`: Debian's linux-source-7.3 from the archive that this
# machine's apt already uses, with lists and caches of its own, so that apt itself is unchanged.
# Usage: get_kernel.sh DIRECTORY [VERSION] [SUITE].  Prints the tree; exit status 3 and one line on
# stderr if it cannot be had.
set -euo pipefail
skip() { echo "get_kernel: $1: kernel tests will be skipped" >&2; exit 3; }
[ $# -ge 1 ] || { echo "usage: get_kernel.sh DIRECTORY [VERSION] [SUITE]" >&2; exit 2; }
version=${2:-7.3} suite=${3:-trixie-backports}
mkdir -p "$1" && cd "$1"
tree=$PWD/linux-source-$version
if [ -e "$version.complete" ]; then echo "$tree"; exit 0; fi
command -v apt-get >/dev/null || skip "this machine has no apt"
uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null |
    grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ') || true
[ -n "$uri" ] || skip "apt here knows no Debian archive"
mkdir -p apt/lists/partial apt/cache/archives/partial
echo "deb $uri $suite main" >apt/sources.list
options=(-q -o "Dir::Etc::sourcelist=$PWD/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$PWD/apt/lists" -o "Dir::Cache=$PWD/apt/cache")
timeout 120 apt-get "${options[@]}" update >&2 || skip "$suite cannot be reached"
timeout 180 apt-get "${options[@]}" download "linux-source-$version" >&2 ||
    skip "$suite has no linux-source-$version"
rm -rf unpacked && dpkg -x "linux-source-$version"_*.deb unpacked
tar -xJf "unpacked/usr/src/linux-source-$version.tar.xz"
rm -rf unpacked "linux-source-$version"_*.deb apt
touch "$version.complete"
echo "$tree"

#!/usr/bin/env bash
# Makes target/dist/emostream-VERSION-TARGET.tar.gz and its .sha256: the program without symbols, its man pages and its
# completions. `tar -xzf FILE -C /usr/local --strip-components 1` installs it. TARGET is a target triple, by default the
# host's. For another one set STRIP, and CC and AR as its C libraries need them.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${1:-$host}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=emostream-$version-$target

# The program of the host writes the man pages and completions, which are the same for every target.
cargo build --release
host_build=${CARGO_TARGET_DIR:-target}/release
built=$host_build
if [ "$target" != "$host" ]; then
    cargo build --release --target "$target"
    built=${CARGO_TARGET_DIR:-target}/$target/release
fi

out=target/dist
rm -rf "${out:?}/$name"
mkdir -p "$out/$name/bin" "$out/$name/share/doc/emostream"
"$host_build/emostream" generate "$out/$name"
"${STRIP:-strip}" -o "$out/$name/bin/emostream" "$built/emostream"
cp LICENSE-APACHE LICENSE-MIT CHANGELOG.md "$out/$name/share/doc/emostream/"

# The same sources and compiler make the same archive: in the order of names, dated by the commit, owned by root.
date=$(git log -1 --format=%ct 2>/dev/null || echo 0)
tar -C "$out" --sort=name --mtime="@$date" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - "$name" |
    gzip -9n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256" && cat "$name.tar.gz.sha256")

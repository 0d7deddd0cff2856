#!/bin/sh
# Runs every target of this folder under libFuzzer, one after the other, on the stable compiler and without cargo-fuzz:
#
#   tests/fuzz/run.sh [SECONDS [TARGET...]]        60 seconds each without a word
#
# What is found lies in target/fuzz/runs/TARGET, beside the corpus, which the next run begins with. Coverage guides the inputs;
# no sanitizer looks for bad memory, of which safe code has none: panics, overflows and failed assertions are found.
set -eu
cd "$(dirname "$0")"
seconds=${1:-60}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v featureops-fuzz)
golden=$(cd ../../proto/golden && pwd)
mkdir -p ../../target/fuzz/runs
folder=$(cd ../../target/fuzz && pwd)
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Ccodegen-units=1"
# With a target named, build scripts and macros are built without these flags.
cargo build --release --locked --bins --target "$host" --target-dir "$folder"
for target in "$@"; do
  mkdir -p "$folder/runs/$target/corpus"
  seeds=
  [ "$target" != log_entry ] || seeds=$golden
  echo "$target"
  (cd "$folder/runs/$target" && "$folder/$host/release/$target" corpus $seeds -max_total_time="$seconds" -max_len=65536 \
    -rss_limit_mb=2048 -print_final_stats=1 >log 2>&1) || { tail -40 "$folder/runs/$target/log"; exit 1; }
  grep -E "DONE|number_of_executed" "$folder/runs/$target/log"
done

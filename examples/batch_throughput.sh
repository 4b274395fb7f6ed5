#!/usr/bin/env bash
# How fast a batch is beside single edits and beside a worker that is fed one edit at a time:
#   examples/batch_throughput.sh [ROUNDS] [EDITS]
# The three take turns, so that a busy machine slows all of them; what counts are the ratios of a round. They must make
# the same pictures, to the byte.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-3} edits=${2:-64}
if [ -z "${ANY2PIX:-}" ]; then
  cargo build --release --quiet
  ANY2PIX=$PWD/target/release/any2pix
fi
any2pix=$(realpath "$ANY2PIX")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp examples/media/*.{jpg,ogg,flac,wav} "$work"
cd "$work"

pictures=(park room beach village coffee cat)
things=('[dog.ogg]' 'a balloon' '[cow.ogg]' 'a trumpet' '[bell.flac]' 'a car' '[horse.ogg]')
instructions=()
for ((n = 0; n < edits; n++)); do
  picture="[${pictures[n % 6]}.jpg]"
  case $((n % 4)) in
    3) instructions+=("make $picture look like the weather in [rain.wav]") ;;
    *) instructions+=("add ${things[n % 7]} to $picture") ;;
  esac
  echo "{\"id\": \"$n\", \"instruction\": \"${instructions[n]}\", \"settings\": {\"seed\": $n}}"
done > manifest.jsonl

singly() {
  mkdir -p single
  for ((n = 0; n < edits; n++)); do
    "$any2pix" edit --quiet --seed "$n" "${instructions[n]}" -o "single/$n.png" > single/log
  done
}

fed() {
  mkdir -p worker
  coproc FED { "$any2pix" worker --stdio; }
  for ((n = 0; n < edits; n++)); do
    echo "{\"instruction\": \"${instructions[n]}\", \"settings\": {\"seed\": $n}, \"output\": \"worker/$n.png\"}" >&"${FED[1]}"
    read -r reply <&"${FED[0]}"
    case $reply in *'"status":"done"'*) ;; *) echo "$reply" >&2; exit 1 ;; esac
  done
  exec {FED[1]}>&-
  wait "$FED_PID"
}

batch() {
  "$any2pix" batch manifest.jsonl --out batch --quiet > /dev/null
}

seconds() {
  local start=$EPOCHREALTIME
  "$1"
  awk "BEGIN { print $EPOCHREALTIME - $start }" > "$1.seconds"
}

echo "round  $edits edits [s]  worker [s]  batch [s]  edits/batch  worker/batch"
for ((round = 1; round <= rounds; round++)); do
  rm -rf single worker batch
  seconds singly
  seconds fed
  seconds batch
  awk -v round="$round" -v a="$(< singly.seconds)" -v b="$(< fed.seconds)" -v c="$(< batch.seconds)" \
    'BEGIN { printf "%5d  %12.1f  %10.1f  %9.1f  %11.2f  %12.2f\n", round, a, b, c, a / c, b / c }' | tee -a rounds
  for ((n = 0; n < edits; n++)); do
    cmp "single/$n.png" "batch/outputs/$n.png"
    cmp "worker/$n.png" "batch/outputs/$n.png"
  done
done
median() { awk -v column="$1" '{ print $column }' rounds | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
echo "median: a batch is $(median 5) times as fast as single edits, $(median 6) times as fast as a worker"
grep -o '"peak_memory_bytes":[0-9]*' batch/part-00000-of-00001.jsonl | cut -d: -f2 |
  awk '{ v[NR] = $1 / 1048576 } END { printf "peak memory: %.0f MB after a quarter of the rows, %.0f MB after all\n", v[int(NR / 4)], v[NR] }'

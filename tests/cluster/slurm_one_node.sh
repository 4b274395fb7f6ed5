#!/usr/bin/env bash
# Slurm for real, on a Debian machine: a cluster of one node, an array of four tasks of which one is killed, submitted
# again by the expression that the merge prints. Results and report are those of one process. Needs root; installs
# Debian's packages of Slurm and leaves nothing else behind.
#
#     tests/cluster/slurm_one_node.sh target/release/any2pix
set -euo pipefail
any2pix=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
if ! command -v slurmctld slurmd sbatch >/dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client
fi
work=$(mktemp -d)
mkdir "$work/state" "$work/spool"
host=$(hostname -s)
export SLURM_CONF=$work/slurm.conf
cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
KillWait=5
ReturnToService=2
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
CONF
slurmctld -D >"$work/slurmctld.log" 2>&1 &
controller=$!
slurmd -D >"$work/slurmd.log" 2>&1 &
node=$!
finish() {
    code=$?
    [ "$code" -eq 0 ] || tail -n 20 "$work"/slurm*.log "$work"/many/cluster/*.log || true
    kill "$node" "$controller" || true
    wait "$node" "$controller" || true
    rm -rf "$work"
}
trap finish EXIT
until sinfo -h -o %T 2>/dev/null | grep -q idle; do sleep 0.5; done
sinfo

# Waits for the jobs that `sh slurm.sh` and `any2pix cluster submit` name, and shows the merge's log.
wait_for() {
    local batch=$1 merge=$2
    while [ -n "$(squeue -h -j "$batch,$merge" 2>/dev/null)" ]; do sleep 1; done
    squeue --states=all -j "$batch,$merge" -o "%i %j %T"
    cat "many/cluster/merge-$merge.log"
}

cp "$here"/../../examples/media/* "$here/manifest.jsonl" "$work"
cd "$work"
alone=0
"$any2pix" batch manifest.jsonl --out one --seed 7 --threads 1 --quiet || alone=$?
echo "+ any2pix cluster submit --engine slurm manifest.jsonl --out many --shards 4 --workers 2"
said=$("$any2pix" cluster submit --engine slurm manifest.jsonl --out many --shards 4 --workers 2 --seed 7)
echo "$said"
batch=$(sed 's/shards: job \([0-9]*\);.*/\1/' <<<"$said")
merge=${said##* }
until [ "$(wc -l <many/part-00001-of-00004.jsonl)" -gt 1 ]; do sleep 0.1; done 2>/dev/null
echo "+ scancel ${batch}_1"
scancel "${batch}_1"
wait_for "$batch" "$merge"
array=$(grep -o -- '--array=[0-9,-]*' "many/cluster/merge-$merge.log")
[ "$array" = "--array=1" ]
echo "+ sh many/cluster/slurm.sh $array"
said=$(sh many/cluster/slurm.sh "$array")
echo "$said"
wait_for "$(sed 's/shards: job \([0-9]*\);.*/\1/' <<<"$said")" "${said##* }"
code=0
"$any2pix" merge many || code=$?
[ "$code" -eq "$alone" ]
for name in results.jsonl report.json; do cmp "one/$name" "many/$name"; done
diff -r one/outputs many/outputs
echo "$(find many/outputs -type f | wc -l) pictures, results.jsonl and report.json are the same, byte for byte"

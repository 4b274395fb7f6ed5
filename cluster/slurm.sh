#!/bin/sh
# A batch of any2pix on Slurm: an array of shards, and a job that merges them once all have ended.
#
#     sh slurm.sh                   submits both
#     sh slurm.sh --array=2,7-9     again the shards that the merge said are missing
#
# Other options of sbatch may follow, or stand in variables such as SBATCH_PARTITION.
set -eu
mkdir -p {{folder}}
batch=$(
    sbatch --parsable --output={{logs}}/%A_%a.log "$@" <<'BATCH'
#!/bin/sh
#SBATCH --job-name=any2pix
#SBATCH --array=0-{{last}}%{{workers}}
#SBATCH --cpus-per-task={{cpus}}{{gres}}
#SBATCH --requeue
#SBATCH --open-mode=append
# The index is SLURM_ARRAY_TASK_ID. A task that runs again goes on where it stopped; 75 says that another process still
# has the shard, as one on a node that was lost may.
for pause in 10 30 60 0; do
    code=0
    {{batch}} || code=$?
    [ "$code" -eq 75 ] || exit "$code"
    sleep "$pause"
done
exit 75
BATCH
) || exit 2
batch=${batch%%;*}
merge=$(
    sbatch --parsable --dependency="afterany:$batch" --output={{logs}}/merge-%j.log <<'MERGE'
#!/bin/sh
#SBATCH --job-name=any2pix-merge
{{merge}}
MERGE
) || exit 1
echo "shards: job $batch; merge: job ${merge%%;*}"

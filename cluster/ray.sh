#!/bin/sh
# A batch of any2pix on Ray. Where it runs: the cluster that RAY_ADDRESS names, else one that runs on this machine, else
# a new one of this machine alone. On the head of a cluster: `ray job submit -- sh ray.sh`.
set -eu
folder={{folder}}
mkdir -p "$folder"
cat >"$folder/any2pix_ray.py" <<'DRIVER'
{{driver}}DRIVER
exec "${PYTHON:-python3}" "$folder/any2pix_ray.py" {{words}}

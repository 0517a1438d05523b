# What the three scripts share; sourced by them. Set these for your cluster: docs/slurm.md.
set -euo pipefail
: "${STUDY:=demo}" "${LAYERS:=00...15}" "${DEFINITIONS:=n2g_assets.definitions}" # LAYERS: the first and the last partition key
: "${N2G_HOME:?a folder that all nodes see}" "${N2G_POSTGRES:?the Postgres that holds the runs}"
export N2G_HOME N2G_POSTGRES N2G_EXECUTOR=in_process OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
eval "$(n2g init)"
materialize() { dagster asset materialize --module-name "$DEFINITIONS" "$@"; }

#!/usr/bin/env bash
# A tiny study by the three scripts of deploy/slurm on a cluster of one node, a task of which is killed by kill -9, against
# the same study in one process. Needs Slurm and Postgres from Debian's packages (slurmctld, slurmd, slurm-client, munge,
# postgresql; none need run) and `make test`'s environment. All are started on free ports, with their data in a temporary
# folder; five to ten minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-${VIRTUAL_ENV:-.venv}/bin/python}" -m n2g_assets_tests.on_slurm

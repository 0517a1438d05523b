#!/usr/bin/env bash
# A tiny study on two workers of Celery, of which two are killed by kill -9, against the same study in one process.
# Needs RabbitMQ and Postgres from Debian's packages (rabbitmq-server, postgresql; none need run) and `make test`'s
# environment. Both are started on free ports, with their data in a temporary folder; one to two minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-${VIRTUAL_ENV:-.venv}/bin/python}" -m n2g_assets_tests.two_workers

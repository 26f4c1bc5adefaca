#!/usr/bin/env bash
# nightly.sh JOB.yaml [options of `bertbatch run`]: one run, its log kept, its exit code passed on.
# BERTBATCH: the project's folder, with its .venv. LOGS: where logs go.
set -euo pipefail
job="${1:?the job file}"
shift
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
BERTBATCH="${BERTBATCH:-$here}"
LOGS="${LOGS:-$BERTBATCH/logs}"
mkdir -p "$LOGS"
log="$LOGS/$(basename "$job" .yaml)-$(date +%Y%m%dT%H%M%S).log"
code=0
"$BERTBATCH/.venv/bin/python" "$BERTBATCH/jobs/score.py" "$job" "$@" > "$log" 2>&1 || code=$?
if [[ "$code" -ne 0 ]]; then
    # cron mails what is printed.
    echo "bertbatch run $job ended with $code; $log ends:"
    tail -n 20 "$log"
fi
exit "$code"

#!/usr/bin/env bash
# Starts a run, or goes on with it where its folder says that it has begun: the same command for the first start, for
# each retry of a RayJob, and for each requeue of Slurm.
#
#   start-or-resume.sh run_dir=/shared/runs/a cache_dir=/shared/cache experiment=esc10 data.root=/shared/esc10
#
# A run that has begun takes its settings from its own folder; those given here count at its first start alone.
set -euo pipefail

run_dir=""
for setting in "$@"; do
  case "$setting" in
    run_dir=*) run_dir="${setting#run_dir=}" ;;
  esac
done
if [ -z "$run_dir" ]; then
  echo "start-or-resume: run_dir=FOLDER is missing: without it no later start finds the run" >&2
  exit 2
fi

if [ -f "$run_dir/config.yaml" ]; then
  exec rlcap train --supervise resume=true "run_dir=$run_dir"
fi
exec rlcap train --supervise "$@"

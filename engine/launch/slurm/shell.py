"""The shell code of a job's script: blocks with @NAME@ where the script's renderer fills in a value."""

BEGIN = r"""
set -uo pipefail  # not -e: what the ranks end with is handled below
RUN_DIR=@RUN_DIR@
WORKSPACE=@WORKSPACE@
JOB=@JOB@
ATTEMPT=${SLURM_RESTART_COUNT:-0}
# A killed controller may take a job that has ended for one that runs, and start it once more: its time is over.
if [ -n "${K2_KEY:-}" ] && [ "$(cat @DIRECTORY@/key 2> /dev/null)" != "$K2_KEY" ]; then
  echo "job $JOB is not the one that $RUN_DIR waits for: nothing is done"
  exit 0
fi
mkdir -p "$RUN_DIR"
rm -f "$RUN_DIR"/exit.json "$RUN_DIR"/drain "$RUN_DIR"/DONE "$RUN_DIR"/failed "$RUN_DIR"/heartbeat \
  "$RUN_DIR"/metrics.json
printf '{"job": "%s", "attempt": %d, "begun": %d, "nodes": "%s"}\n' "$JOB" "$ATTEMPT" "$(date +%s)" \
  "$SLURM_JOB_NODELIST" >> "$RUN_DIR/attempts.jsonl"
echo "job $JOB, attempt $ATTEMPT, on $SLURM_JOB_NODELIST, $(date -Is)"
# Told to end, it ends after its srun, never before. Where Slurm does not keep a job's processes in a cgroup, an srun
# that is left alone waits some seconds for a step whose supervisor is dead, and then cancels the step of that number:
# by then the next attempt's.
exec 3< /dev/null
trap 'read -r RC <&3; exit 143' TERM
"""

ENVIRONMENT = r"""
# ---- environment: nothing of the submitter's own comes along: the driver calls sbatch with next to none
export PATH=@PATH@
export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun does not take it from sbatch
export K2_RUN_DIR="$RUN_DIR"
@EXPORTS@
# ---- the code: the snapshot that the stage's key was made from, whatever has been edited since
export PYTHONPATH=@CODE@${PYTHONPATH:+:$PYTHONPATH} PYTHONSAFEPATH=1
"""

MEET = r"""
# ---- where the ranks meet; a node whose name does not resolve is called by its address
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$MASTER_ADDR" > /dev/null ||
  MASTER_ADDR=$(scontrol show node "$MASTER_ADDR" -o | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
"""

HEALTH = r"""
# ---- are the machines fit? One that is not is named in bad-nodes, and the next job leaves it out
check() {
  srun --export=ALL --label --kill-on-bad-exit=0 bash -c '
    bad() { echo "BAD $SLURMD_NODENAME: $1"; echo "$SLURMD_NODENAME" >> "$K2_RUN_DIR/bad-nodes"; exit @UNFIT@; }
    [ "$(nvidia-smi -L | wc -l)" -ge @GPUS@ ] || bad "fewer than @GPUS@ GPUs"
    nvidia-smi --query-gpu=ecc.errors.uncorrected.volatile.total --format=csv,noheader |
      grep -q "^[1-9]" && bad "ECC errors"
    for port in /sys/class/infiniband/mlx5_*/ports/1/state; do
      [ ! -e "$port" ] || grep -q ACTIVE "$port" || bad "$port is not active"
    done
    [ "$(df --output=avail -BM /dev/shm | tail -n 1 | tr -dc 0-9)" -ge 1024 ] || bad "/dev/shm is full"
    exit 0'
}
if command -v nvidia-smi > /dev/null && ! check; then
  printf '{"job": "%s", "attempt": %d, "rc": @UNFIT@, "drain": false, "done": false, "failed": false, "ended": %d}\n' \
    "$JOB" "$ATTEMPT" "$(date +%s)" > "$RUN_DIR/.exit.json" && mv "$RUN_DIR/.exit.json" "$RUN_DIR/exit.json"
  exit @UNFIT@
fi
"""

DRAIN = r"""
# ---- asked to end soon, @LEAD@ s before the time is up: the ranks look for this file and leave a checkpoint
DRAIN=false
trap 'DRAIN=true; touch "$RUN_DIR/drain"; echo "job $JOB: asked to end soon"' USR1
"""

RANKS = r"""
# ---- the ranks; their exit code comes through a pipe: `wait` may lose it where the warning comes as they end
exec 4>&1
exec 3< <(trap : TERM; @SRUN@ >&4; echo $?)
read -r RC <&3 || RC=1
trap - TERM
"""

END = r"""
# ---- how it ended: DONE is the ranks' word that their outputs are handed over
DONE=false; [ -e "$RUN_DIR/DONE" ] && DONE=true
@FAILED@
printf '{"job": "%s", "attempt": %d, "rc": %d, "drain": %s, "done": %s, "failed": %s, "ended": %d}\n' \
  "$JOB" "$ATTEMPT" "$RC" "$DRAIN" "$DONE" "$FAILED" "$(date +%s)" > "$RUN_DIR/.exit.json" &&
  mv "$RUN_DIR/.exit.json" "$RUN_DIR/exit.json" && cat "$RUN_DIR/exit.json" >> "$RUN_DIR/attempts.jsonl"
"""

FAILED_OF_SEVERAL = r"""FAILED=false; [ -e "$RUN_DIR/failed" ] && FAILED=true  # else they only lost one another"""
FAILED_OF_ONE = r"""FAILED=false  # unless it ended of its own, neither drained nor killed by a signal
[ "$RC" -gt 0 ] && [ "$RC" -lt 128 ] && [ "$RC" != @DRAINED@ ] && FAILED=true"""

REQUEUE = r"""
# ---- drained: once more, at most @BUDGET@ times in a row without new progress; never a job that is being ended
if [ $DRAIN = true ] && [ $RC != 0 ] && [ $DONE = false ] && [ $FAILED = false ]; then
  MARK=$(find "$WORKSPACE" \( -path '*/checkpoints/*/meta.json' -o -name '*.parquet' \) ! -path '*/@EXCHANGE@/*' \
    -printf '%T@ %P\n' |
    sort -n | tail -n 1)
  SPENT=$(cat "$RUN_DIR/spent" 2> /dev/null || echo 0)
  if [ "$MARK" = "$(cat "$RUN_DIR/mark" 2> /dev/null)" ]; then SPENT=$((SPENT + 1)); else SPENT=0; fi
  echo "$MARK" > "$RUN_DIR/mark"
  echo "$SPENT" > "$RUN_DIR/spent"
  if [ $SPENT -le @BUDGET@ ] && scontrol show job -o "$JOB" | grep -q ' JobState=RUNNING '; then
    echo "job $JOB: requeued, to go on from its last checkpoint"
    scontrol requeue "$JOB" && sleep 300
  fi
fi
"""

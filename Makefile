# k2-pipeline. `make run` and `make test` are all a newcomer needs; `make help` lists the rest.
# STAGE=… and PROFILE=… choose; PYTHON=… names another interpreter than python3.

PYTHON ?= python3
PROFILE ?= laptop
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTABLE := $(VENV)/.testable
TRITON := .venv-kernels
# Bytecode is made when a module is first imported: compiling all packages now would take longer and use 0.4 GB.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

# A process beside a command imports its runs into MLflow while it runs.
FOLLOW = python -m pipelines.track --env $(PROFILE) --follow --

# Permission for training stages to resume where they would refuse (engine/training/resume.py).
ALLOWED = $(if $(RESUME),K2_RESUME=$(RESUME))

export PATH := $(CURDIR)/$(BIN):$(PATH)
export KEDRO_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run repro plan smoke ui compare chat size scale study studies doctor export import clean payloads work adopt-work mend views test test-all test-kill lint cluster cluster-stop test-cluster test-deepspeed why test-mutate screenshots test-ui test-dvc test-mlflow test-kernels test-layouts

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(READY): requirements/run.txt requirements/no-deps.txt
	@sh requirements/check.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements/run.txt
	$(INSTALL) --no-deps -r requirements/no-deps.txt
	@touch $@

$(TRITON)/.ready: $(READY) requirements/kernels.txt
	$(INSTALL) --no-deps --upgrade --target $(TRITON) -r requirements/kernels.txt
	@touch $@

$(TESTABLE): $(READY) requirements/test.txt
	$(INSTALL) -r requirements/run.txt -r requirements/test.txt
	@touch $@

run: $(READY) ## the whole graph on PROFILE (laptop), through dvc; then the table, the report's path, what to try next
	@python -m pipelines.commands.summary --env $(PROFILE) --begin
	@$(ALLOWED) $(FOLLOW) python -m pipelines.commands.repro --env $(PROFILE)
	@python -m pipelines.commands.summary --env $(PROFILE)

repro: $(READY) ## what is stale, or only STAGE; FORCE=1 runs it even if nothing changed; RESUME=close under another torch or CPU
	@$(ALLOWED) $(FOLLOW) python -m pipelines.commands.repro --env $(PROFILE) $(if $(STAGE),--stage $(STAGE)) $(if $(FORCE),--force)

plan: $(READY) ## each stage: fresh, recalled, stale, missing, interrupted or failed, why, and how long it will take; VERIFY=1 reads every byte
	@python -m pipelines.commands.plan --env $(PROFILE) $(if $(VERIFY),--verify)

why: $(READY) ## what made STAGE stale, old → new, through the stages before it
	@python -m pipelines.commands.why $(if $(STAGE),$(STAGE),$(error name a stage: make why STAGE=sft)) --env $(PROFILE)

smoke: $(READY) ## the whole graph at its smallest, in one process
	@python -m pipelines.commands.code --env smoke
	kedro run --env smoke --fresh

ui: $(READY) ## Dagster: look at the graph, press its buttons; PORT=3000
	@K2_PROFILE=$(PROFILE) $(FOLLOW) python -m dags.ui $(if $(PORT),--port $(PORT))

compare: $(READY) ## MLflow: compare runs; PORT=5000
	@python -m pipelines.track --env $(PROFILE) --serve $(if $(PORT),--port $(PORT))

chat: $(READY) ## talk to a checkpoint: CHECKPOINT=sft, by default the last one trained
	@python -m pipelines.commands.chat --env $(PROFILE) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

size: $(READY) ## parameters by block, FLOPs a token, cache of decoding
	@python -m pipelines.commands.size --env $(PROFILE)

scale: $(READY) ## memory, messages, time and cost of PROFILE's pre-training: GPUS=256 GPU=h800 LAYOUT="zero: 1" TOKENS=15.5e12 PICTURE=scale.png
	@python -m pipelines.commands.scale --env $(PROFILE) $(if $(GPUS),--gpus $(GPUS)) $(if $(GPU),--gpu $(GPU)) \
		$(if $(LAYOUT),--layout "$(LAYOUT)") $(if $(TOKENS),--tokens $(TOKENS)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(PICTURE),--picture "$(PICTURE)")

export: $(READY) ## a checkpoint in Hugging Face's layout: CHECKPOINT=sft (by default the last one trained) DTYPE=float32|bfloat16|fp8 OUT=dir
	@python -m pipelines.commands.export --env $(PROFILE) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) --dtype $(or $(DTYPE),bfloat16) \
		$(if $(OUT),--out "$(OUT)") $(if $(SHARD_GB),--shard-gb $(SHARD_GB))

# AS is make's own name for the assembler, so its built-in value counts as not given.
import: $(READY) ## start from the checkpoint in SOURCE, AS=base_checkpoint|extended_checkpoint
	@python -m pipelines.commands.adopt --env $(PROFILE) --source "$(SOURCE)" $(if $(filter default,$(origin AS)),,--as $(AS))

study: $(READY) ## a claim of the paper as a small experiment: NAME=muon_vs_adamw; resumes where it was stopped
	@OMP_NUM_THREADS=1 python -m pipelines.commands.study $(NAME) --env $(PROFILE)

studies: $(READY) ## all studies with their verdicts
	@python -m pipelines.commands.study --list

doctor: $(READY) ## what this machine has, and which profile fits it
	@python -m pipelines.commands.doctor

clean: ## remove caches and finished work (never artifacts); prints what and how much
	@$(PYTHON) pipelines/commands/clean.py

payloads: $(READY) ## all payloads, where each is kept and who needs it: CHECK=1 reads them, GC=1 removes what neither an output nor a run of the last DAYS=30 names
	@python -m pipelines.commands.payloads --env $(PROFILE) $(if $(CHECK),--check) $(if $(GC),--gc) $(if $(DAYS),--days $(DAYS))

work: $(READY) ## unfinished work by key: step, size, age, what differs from today's key; GC=1 removes the published and old, DAYS=30
	@python -m pipelines.commands.work --env $(PROFILE) $(if $(GC),--gc) $(if $(DAYS),--days $(DAYS))

mend: $(READY) ## move damaged run records and other small files that cannot be read to data/PROFILE/.damaged
	@python -m pipelines.commands.mend --env $(PROFILE)

adopt-work: $(READY) ## go on from the last checkpoint of STAGE's work under KEY, under today's key; the run record says so
	@python -m pipelines.commands.adopt_work --env $(PROFILE) --stage $(or $(STAGE),$(error name a stage: make adopt-work STAGE=pretrain KEY=…)) --key $(or $(KEY),$(error name a key that make work lists: KEY=…))

views: $(READY) ## regenerate dvc.yaml and the README's picture from kedro.yml, pipelines and catalog
	python -m dags.dvc_yaml
	python -m dags.picture

lint: $(TESTABLE) ## ruff, mypy, import-linter, the views
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache
	python -m dags.dvc_yaml --check
	python -m dags.picture --check

test: $(TESTABLE) ## the fast tests
	OMP_NUM_THREADS=1 python -m pytest -n 2 -m "not slow"

test-layouts: $(TESTABLE) ## pipelines, experts, ZeRO-1 and memory switches on gloo ranks, against one process; the planner's bytes
	OMP_NUM_THREADS=1 python -m pytest -n 2 -m slow --timeout 600 tests/engine tests/nodes tests/benchmarks

test-kill: $(TESTABLE) ## SIGKILL in the middle of pretrain, sft and rl, of dvc, kedro, torchrun and ranks; resumed bit for bit
	OMP_NUM_THREADS=1 python -m pytest -m slow --timeout 1200 tests/kill

test-graph: $(TESTABLE) ## the smoke graph end to end: versions, staleness, early cutoff, ledgers
	OMP_NUM_THREADS=1 python -m pytest -m slow --timeout 1200 tests/graph

cluster: $(TESTABLE) ## a Slurm of three pretended H800 nodes on this machine (Debian's packages, root), to try dispatch on
	@python -m tests.cluster

cluster-stop: $(TESTABLE) ## stop it and its jobs
	@python -m tests.cluster --stop

test-cluster: $(TESTABLE) ## dispatch to a real Slurm, and every fault that may happen to it
	OMP_NUM_THREADS=1 python -m pytest -n 4 -m slow --timeout 900 --durations 10 tests/cluster

test-mutate: $(TESTABLE) ## fingerprints: every stage and parameter, 500 seeded edits of the real tree, against what really ran
	OMP_NUM_THREADS=1 python -m pytest -m slow --timeout 1200 tests/mutation

test-ui: $(TESTABLE) ## Dagster's page in a real browser (chromium), and that it agrees with make plan; SCREENSHOTS=dir keeps views
	OMP_NUM_THREADS=1 SCREENSHOTS=$(SCREENSHOTS) python -m pytest -m slow --timeout 1800 tests/ui

screenshots: $(TESTABLE) ## the README's screenshots, from a run of PROFILE: docs/img/dagster_*.png and mlflow_*.png
	python docs/screenshots.py --env $(PROFILE)

test-deepspeed: $(TESTABLE) ## optimizer.backend: deepspeed on gloo ranks, against ours; DeepSpeed is installed apart
	$(INSTALL) --no-deps --upgrade --target $(VENV)/deepspeed -r requirements/deepspeed.txt
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(VENV)/deepspeed python -m pytest -m slow --timeout 600 tests/deepspeed

test-dvc: $(TESTABLE) ## DVC for real: payloads by hash, remotes (a path, an S3 server), experiments, diffs, two stages at once
	$(INSTALL) --no-deps --upgrade --target $(VENV)/s3 -r requirements/s3.txt
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(VENV)/s3 python -m pytest -m slow --timeout 1200 tests/dvc

# Triton reads TRITON_INTERPRET when it is imported: interpreter and compiler need a process each.
test-kernels: $(TESTABLE) $(TRITON)/.ready ## Triton's kernels without a GPU: run by its interpreter, and compiled for Hopper
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(TRITON) TRITON_INTERPRET=1 python -m pytest tests/triton/interpreted
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR)/$(TRITON) TRITON_CACHE_DIR=$(CURDIR)/$(TRITON)/cache \
		python -m pytest tests/triton/hopper

test-mlflow: $(TESTABLE) ## a real MLflow server that dies and comes back while a stage runs
	OMP_NUM_THREADS=1 python -m pytest -m slow --timeout 1200 tests/mlflow

PYTHON ?= python3
CONFIG ?=
CORES ?= all
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup retrieve tables protocols estimate check remote status resources test test-slurm lint types format bench clean

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: .venv/installed ## create .venv with the pinned packages

.venv/installed: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("expected Python 3.11 or later, got " + sys.version.split()[0] + " - set PYTHON=python3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

retrieve: setup ## fetch the data and weights that a configuration names: CONFIG=config/cifar10.yaml
	$(BIN)/python -m workflow_scripts.retrieve_files $(CONFIG)

tables: setup ## run the workflow: results/tables, results/figures, results/report.html (CONFIG=my.yaml, CORES=2)
	$(BIN)/python -m workflow_scripts.configuration_files $(CONFIG)
	$(BIN)/snakemake --cores $(CORES) $(if $(CONFIG),--configfile $(CONFIG) --) results/tables

estimate: setup ## forecast hours and memory of every stage from a probe of a minute (CONFIG=my.yaml, CORES=2)
	@$(BIN)/python -m workflow_scripts.configuration_files $(CONFIG)
	@$(BIN)/python -m workflow_scripts.estimate_cost --cores $(CORES) $(CONFIG)

protocols: setup ## print what evaluation protocols report of defences whose robust accuracy is known, and write results/protocols (CONFIG=my.yaml)
	$(BIN)/python -m workflow_scripts.compare_protocols $(CONFIG)

check: setup ## try a purifier or classifier of your own: FILE=my_purifiers.py (PARAMS='{sigma: 0.1}', FACTORY=, KIND=, SHAPE=1,16,16, CLASSES=10)
	@$(BIN)/python -m workflow_scripts.check_user_code '$(or $(FILE),$(error expected a file to check - add FILE=my_purifiers.py))' \
	  $(if $(PARAMS),--params '$(PARAMS)') $(if $(FACTORY),--factory $(FACTORY)) \
	  $(if $(KIND),--kind $(KIND)) $(if $(SHAPE),--shape $(SHAPE)) $(if $(CLASSES),--classes $(CLASSES))

remote: setup ## share results through your own storage: URL=/a/folder, s3://bucket/path, ssh://host/path, https://...
	@test -n "$(URL)" || { echo "expected a place to store results, got none - make remote URL=s3://bucket/path"; exit 2; }
	$(BIN)/dvc remote add --local --force --default storage "$(URL)"
	$(BIN)/dvc remote modify --local storage verify true

status: setup ## which results do not belong to the code and configuration, and why
	$(BIN)/dvc status
	plan=$$($(BIN)/snakemake --summary results/tables) && echo "$$plan" | awk -F'\t' '$$6 == "update pending" \
	  {print $$3 ": " $$1 ": " ($$5 == "ok" ? "follows from the others" : $$5); n++} END {print n + 0 " results to make"}'

resources: setup ## propose memory and runtime of every rule for profiles/slurm, from the run in results/ (RESULTS=results/mine)
	@$(BIN)/python -m workflow_scripts.propose_resources $(or $(RESULTS),results)/benchmarks

test: setup lint types ## run every check: lint, types, unit, stage and workflow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 tests/unit tests/scripts
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/workflow

test-slurm: setup ## run the workflow on a real SLURM cluster on this machine, and disturb it (needs Debian's slurmctld, slurmd, slurm-client, munge)
	$(BIN)/python -m pytest $(or $(TESTS),tests/slurm)

lint: setup ## style, import direction, workflow lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakemake --lint

types: setup ## mypy --strict on library and stages
	$(BIN)/mypy

format: setup ## format code and rules in place
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile rules

bench: setup ## measure purification and gradient against the bare network, and the check of 10,000 records
	$(BIN)/python tests/bench.py
	$(BIN)/python tests/bench_records.py

clean: ## delete results and the environment
	rm -rf results/* .venv .snakemake

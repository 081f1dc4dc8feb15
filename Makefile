# Thin names for the commands in the README. Needs make, and Python 3.11 or newer with venv and pip.

PYTHON ?= python3
UV ?= uv
SALES ?= 10000
OUT ?= data/sample

VENV_PYTHON := .venv/bin/python
# A stamp is as old as the last install, so nothing is installed twice.
RUN_READY := .venv/run.stamp
DEV_READY := .venv/dev.stamp
APP_READY := .venv/app.stamp
PIP := -m pip --disable-pip-version-check install --quiet --quiet
PIP_INSTALL := $(VENV_PYTHON) $(PIP)
INSTALL := $(PIP_INSTALL) --no-compile --require-hashes -r
# A new kernel then says which cells to run first, where it would say that there is no %%sql.
KERNEL_LINE := c.IPKernelApp.extensions.append("mart_helpers.fresh_kernel")
KERNEL_CONFIG := mkdir -p .venv/etc/ipython && echo '$(KERNEL_LINE)' > .venv/etc/ipython/ipython_kernel_config.py
INSTALL_PROJECT := $(PIP_INSTALL) --no-deps --editable . && $(KERNEL_CONFIG)
# On all cores, and without the packages' own tests: pip does neither, and takes a quarter longer. Our
# own package too: where Python is told to write no bytecode, as in many containers, it would be
# compiled anew by each command. A file that cannot be compiled is one that nobody imports.
BYTECODE := $(VENV_PYTHON) -m compileall -q -j 0 -x /tests/ .venv/lib mart_helpers >/dev/null 2>&1 || true
# Matplotlib looks for fonts once, which is slow and may write a line into a notebook.
FONTS := $(VENV_PYTHON) -c 'import matplotlib.font_manager' 2>/dev/null
COMPILE := $(UV) pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock"
# The first notebook, no news from the web, no helper file between the notebooks, and of the SQL plugin
# the highlighting: its other parts complain in the browser's console.
LAB_OPTIONS := --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/01_build.ipynb \
	--LabApp.app_settings_dir=mart_helpers/templates/lab \
	--ContentsManager.hide_globs='["__pycache__", "conftest.py", "*.pyc", "*~"]'
# Two processes take the files of tests in turn; a file's tests share what they have built.
PYTEST := $(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# dbt, pandas and polars, which `make bench` measures against, have an environment of their own.
BENCHMARKS := tests/benchmarks
PEERS := $(BENCHMARKS)/.venv
PEERS_READY := $(PEERS)/peers.stamp
# So have the tests of clusters: JupySQL would import pyspark in each notebook if it were installed.
CLUSTER := .venv-cluster
CLUSTER_READY := $(CLUSTER)/cluster.stamp
SERVERS := tests/cluster/requirements-servers

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test test-app test-cluster lab app lint lock bench golden generate reset clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

run: $(RUN_READY)  ## Run the notebooks: build, quality, explore, export, dashboard.
	@$(VENV_PYTHON) -m mart all

test: $(DEV_READY)  ## Run the tests; PYTEST_ARGS="-k name" is passed on.
	@$(PYTEST) $(PYTEST_ARGS)

test-app: $(DEV_READY) $(APP_READY)  ## Run the tests of the app; PYTEST_ARGS is passed on.
	@$(VENV_PYTHON) -m pytest tests/app $(PYTEST_ARGS)

test-cluster: $(CLUSTER_READY)  ## Run the tests on clusters, Sail and Spark; PYTEST_ARGS is passed on.
	@$(CLUSTER)/bin/python -m pytest tests/cluster $(PYTEST_ARGS)

app: $(APP_READY)  ## Show the mart in a browser, with controls; APP_ARGS is passed on.
	@$(VENV_PYTHON) -m mart app $(APP_ARGS)

lab: $(DEV_READY)  ## Open 01_build in JupyterLab; LAB_ARGS is passed on.
	@$(VENV_PYTHON) -m jupyterlab $(LAB_OPTIONS) $(LAB_ARGS)

lint: $(DEV_READY)  ## Check the style of Python and SQL, in files and in cells.
	@$(VENV_PYTHON) -m ruff check
	@$(VENV_PYTHON) -m ruff format --check
	@$(VENV_PYTHON) tests/lint_sql.py

bench: $(RUN_READY) $(PEERS_READY)  ## Measure against plain scripts, dbt, pandas and polars; BENCH_ARGS is passed on.
	@$(VENV_PYTHON) $(BENCHMARKS)/bench.py $(BENCH_ARGS)

golden: $(DEV_READY)  ## Run the notebooks on the sample and save them with their outputs.
	@$(VENV_PYTHON) tests/golden.py

generate: $(RUN_READY)  ## Write synthetic inputs: SALES=10000 lines to OUT=data/sample.
	@$(VENV_PYTHON) -m mart generate --sales "$(SALES)" --out "$(OUT)"

reset: $(RUN_READY)  ## Remove the mart and everything else that runs have written.
	@$(VENV_PYTHON) -m mart reset

clean:  ## Remove .venv and caches; the mart and its exports stay.
	@rm -rf .venv $(CLUSTER) $(PEERS) .pytest_cache .ruff_cache .hypothesis build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock:  ## Rebuild the lock files; LOCK_ARGS=--upgrade for newer packages.
	@command -v "$(UV)" >/dev/null || { echo 'make lock needs uv. Install it, or point to it: make lock UV=path/to/uv' >&2; exit 1; }
	@$(COMPILE) pyproject.toml $(LOCK_ARGS) --output-file requirements.lock >/dev/null
	@$(COMPILE) pyproject.toml $(LOCK_ARGS) --extra lab --extra test --constraints requirements.lock \
		--output-file requirements-dev.lock >/dev/null
	@$(COMPILE) pyproject.toml $(LOCK_ARGS) --extra app --constraints requirements-dev.lock \
		--output-file requirements-app.lock >/dev/null
	@$(COMPILE) pyproject.toml $(LOCK_ARGS) --extra cluster --constraints requirements-dev.lock \
		--output-file requirements-cluster.lock >/dev/null
	@$(COMPILE) $(SERVERS).in $(LOCK_ARGS) --constraints requirements-dev.lock \
		--output-file $(SERVERS).lock >/dev/null
	@$(COMPILE) $(BENCHMARKS)/requirements-peers.in $(LOCK_ARGS) --no-strip-extras \
		--output-file $(BENCHMARKS)/requirements-peers.lock >/dev/null

$(RUN_READY): requirements.lock pyproject.toml | $(VENV_PYTHON)
	@echo 'Installing what a run needs into .venv. This takes a minute or two …'
	@$(INSTALL) requirements.lock
	@$(INSTALL_PROJECT)
	@$(BYTECODE)
	@$(FONTS)
	@touch $@

# The tests' packages include those of a run, at the same versions: no second install for `make run`.
$(DEV_READY): requirements-dev.lock requirements.lock pyproject.toml | $(VENV_PYTHON)
	@echo 'Installing what tests and JupyterLab need into .venv. This takes a minute or two …'
	@$(INSTALL) requirements-dev.lock
	@$(INSTALL_PROJECT)
	@$(BYTECODE)
	@$(FONTS)
	@touch $(RUN_READY) $@

# Beside what is there already, at the same versions.
$(APP_READY): requirements-app.lock pyproject.toml | $(RUN_READY)
	@echo 'Installing what the app needs into .venv …'
	@$(INSTALL) requirements-app.lock
	@$(BYTECODE)
	@touch $@

$(PEERS_READY): $(BENCHMARKS)/requirements-peers.lock | $(VENV_PYTHON)
	@echo 'Installing what the benchmarks measure against into $(PEERS) …'
	@$(VENV_PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python $(PIP) --require-hashes -r $<
	@touch $@

# The servers' pyspark has the files of pyspark-client, at the same version, and Spark itself.
$(CLUSTER_READY): requirements-cluster.lock $(SERVERS).lock | $(VENV_PYTHON)
	@echo 'Installing clusters to test with into $(CLUSTER). This takes a few minutes …'
	@$(VENV_PYTHON) -m venv --clear $(CLUSTER)
	@$(CLUSTER)/bin/python $(PIP) --require-hashes -r requirements-cluster.lock
	@$(CLUSTER)/bin/python $(PIP) --require-hashes -r $(SERVERS).lock
	@$(CLUSTER)/bin/python $(PIP) --no-deps --editable .
	@touch $@

# Missing, or left behind by a Python that is gone: start afresh.
$(VENV_PYTHON):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo '"$(PYTHON)" is not Python 3.11 or newer. Install one, or name it: make PYTHON=python3.12 …' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo '"$(PYTHON)" cannot make virtual environments. Add venv to it (Debian, Ubuntu: apt install python3-venv).' >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear .venv || { rm -rf .venv; exit 1; }

# make dry-run, make test, make lint: each creates .venv first when it is missing or the requirements changed.
# Python 3.12 as on Kaggle, else 3.11: the first candidate that really runs (a pyenv shim may only say "not found").
PYTHON ?= $(shell for p in python3.12 "$$HOME"/.pyenv/versions/3.12.*/bin/python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ssl; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
RUN := .venv/bin/python

.PHONY: dry-run test lint env browser clean
env: .venv/ready

dry-run: .venv/ready
	@$(RUN) -m sennet_kaggle dry-run $(ARGS)

# One process of tests per core, so one thread in each.
test: .venv/ready browser
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist worksteal $(ARGS)

lint: .venv/ready
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) build_kernel.py --check

# The report page is tested in a real browser where there is one; as root on Debian it is installed.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "tests: installing Chromium" && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
		echo "tests: no Chromium and no way to install it, the browser test will be skipped"

# uv hard-links the packages from its cache; without it pip does the same work, more slowly.
.venv/ready: requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: install Python 3.12, or name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "environment: creating .venv with $$($(PYTHON) --version) ($(PYTHON)) from requirements-dev.txt"
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then \
		echo "environment: fetching uv into .venv-uv"; \
		{ test -x .venv-uv/bin/uv || { $(PYTHON) -m venv .venv-uv && .venv-uv/bin/python -m pip install --quiet uv; }; } && uv=.venv-uv/bin/uv; \
	fi; \
	if [ -n "$$uv" ] && "$$uv" --version >/dev/null 2>&1; then \
		echo "environment: installing with $$("$$uv" --version)"; \
		"$$uv" pip install --quiet --python .venv/bin/python -r requirements-dev.txt; \
	else \
		echo "environment: no uv here, installing with pip (several minutes, 7 GB)"; \
		.venv/bin/python -m pip install --quiet -r requirements-dev.txt; \
	fi
	@touch $@
	@echo "environment: ready"

clean:
	rm -rf .venv .venv-uv dry-run

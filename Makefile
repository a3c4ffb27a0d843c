# Two commands do all the set-up on a machine with Python 3.11 or newer and make:
#   make demo   prepare, train, evaluate, report and export the embedded default
#   make test   the whole test suite        make smoke   every recipe, tiny
# PYTHON=python3.12 takes another interpreter; it gets an environment of its own.

PYTHON ?= python3
VENV ?= .venv$(if $(filter python3,$(PYTHON)),,-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
# One more than two cores: tests wait for the commands that they start.
JOBS ?= 3
DEMO ?= runs/demo

# What starts a hundred commands must not compile the same modules a hundred times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test smoke lint lock clean

$(VENV)/.installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) does not run or is older than 3.11; give another: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# That of Python 3.11 takes twice as long to weigh what an index offers.
	$(RUN) -m pip install -q --disable-pip-version-check --upgrade pip
	$(RUN) -m pip install -q --no-compile -r requirements.txt
	@# Byte code of what is used, on the second core. Meanwhile librosa compiles some of itself, as
	@# it does at first use, and keeps that on disk; once, before processes do it side by side and
	@# spoil one another's files.
	$(RUN) -c "import speechdst.train, tensorflow_datasets, matplotlib.pyplot" & \
	  $(RUN) -c "import librosa, numpy; \
	    librosa.effects.pitch_shift(numpy.ones(16000, 'float32'), sr=16000, n_steps=1)" && \
	  wait
	touch $@

demo: $(VENV)/.installed
	PYTHON=$(RUN) sh launch/demo.sh $(DEMO)

test: $(VENV)/.installed
	$(RUN) -m ruff check .
	JAX_PLATFORMS=cpu $(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

smoke: $(VENV)/.installed
	PYTHON=$(RUN) sh launch/smoke.sh

lint: $(VENV)/.installed
	$(RUN) -m ruff check .

# Needs uv (pip install uv). One file for all versions; it must hold no index addresses.
lock:
	uv pip compile --universal --python-version 3.11 --extra test --no-annotate --no-header -q \
	  --upgrade pyproject.toml -o requirements.txt

clean:
	rm -rf runs data exported .pytest_cache .hypothesis .ruff_cache

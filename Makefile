# The commands of this project; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train-embedded help install run test test-fast screenshots lint audit format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

install: $(STAMP) ## create .venv and install the app with everything

$(STAMP): requirements.txt constraints.txt pyproject.toml scripts/install
	PYTHON=$(PYTHON) VENV=$(VENV) scripts/install
	touch $@

run: install ## start the app and print its URL
	$(BIN)/python app.py

test: install ## install what tests need (Chromium too) and run all tests
	scripts/test

test-fast: install ## the tests that take less than a minute
	scripts/test -m "not slow"

screenshots: install ## pictures of the page in light, dark and on a phone, into screenshots/
	$(BIN)/python scripts/screenshots

lint: install ## ruff and mypy
	scripts/check

audit: install ## what is installed against known vulnerabilities: a database where one answers, else a list
	$(BIN)/python scripts/audit

format: install ## let ruff put the code in order
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# glibc would give every large tensor back to the system and ask for it again: 2 to 4 times slower on a CPU.
train-embedded: install ## train the embedded checkpoint again, to runs/embedded/checkpoint (hours)
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 $(BIN)/marigold-demo train --out runs/embedded \
	  --init tiny --data scenes --image-encoder lite2 --seed 2024 --precision bf16 --batch 8 --accumulate 1 \
	  --vae-steps 700 --diffusion-steps 140 --end-to-end-steps 4300 --lr 5e-4 --final-lr 0.02 --warmup-steps 50 \
	  --ema 0.998 --fresh 0.15 \
	  --shapes 192x144,192x144,256x192,144x192,176x176,320x96,256x144,256x192

clean: ## remove what the commands above made
	rm -rf $(VENV) build dist *.egg-info

# The commands of this project; `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: train-embedded space help install run test test-fast screenshots pictures lint audit format clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

install: $(STAMP) ## create .venv and install the app with all extras

$(STAMP): requirements.txt constraints.txt pyproject.toml synthetic/pyproject.toml scripts/install
	PYTHON=$(PYTHON) VENV=$(VENV) scripts/install
	touch $@

run: install ## start the app and print its URL
	$(BIN)/python app.py

test: install ## install what the tests need (Chromium too) and run all of them
	scripts/test

test-fast: install ## run the quick tests: two minutes on two cores
	scripts/test -m "not slow"

screenshots: install ## take the four pictures of the page in the README, into screenshots/
	$(BIN)/python scripts/screenshots

pictures: install ## draw the pictures at the top of the README, into docs/pictures/
	$(BIN)/python scripts/readme_pictures.py

space: install ## upload the committed files to a Hugging Face Space: make space SPACE=owner/name
	scripts/upload_space $(SPACE)

lint: install ## run ruff and mypy
	scripts/check

audit: install ## compare installed packages with known vulnerabilities: a dated list, and a database where one answers
	$(BIN)/python scripts/audit

format: install ## format the code with ruff
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

# Without these, glibc returns every large tensor to the system and requests it again: 2 to 4 times slower on a CPU.
TRAIN = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 $(BIN)/marigold-demo train --data scenes --accumulate 1

train-embedded: install ## train the embedded checkpoint again, to runs/embedded/checkpoint (hours)
	$(TRAIN) --out runs/embedded_1 --init tiny --image-encoder lite2 --seed 2024 --batch 8 --fresh 0.15 \
	  --vae-steps 700 --diffusion-steps 140 --end-to-end-steps 4300 --lr 5e-4 --final-lr 0.02 --warmup-steps 50 --ema 0.998 \
	  --shapes 192x144,192x144,256x192,144x192,176x176,320x96,256x144,256x192
	$(TRAIN) --out runs/embedded_2 --init runs/embedded_1/checkpoint --seed 91000 --batch 16 --fresh 0.25 \
	  --vae-steps 0 --diffusion-steps 0 --end-to-end-steps 2200 --lr 3e-4 --final-lr 0.18 --warmup-steps 50 --ema 0.998 \
	  --shapes 128x96,160x120,96x128,144x112,176x96,128x128
	$(TRAIN) --out runs/embedded_3 --init runs/embedded_2/checkpoint --seed 91000 --batch 8 --fresh 1 \
	  --vae-steps 0 --diffusion-steps 0 --end-to-end-steps 1500 --lr 1.2e-4 --final-lr 0.054 --warmup-steps 30 --ema 0.997 \
	  --shapes 192x144,256x192,144x192,192x192,256x144,192x256,320x96,288x216
	$(TRAIN) --out runs/embedded --init runs/embedded_3/checkpoint --seed 500000 --batch 8 --fresh 0.35 --precision bf16 \
	  --vae-steps 0 --diffusion-steps 0 --end-to-end-steps 4500 --lr 3e-4 --final-lr 0.06 --warmup-steps 50 --ema 0.999 \
	  --decoder-lr 1e-4 --keep-init 0.25 --shapes 256x192,192x256,296x168,400x120,224x224

clean: ## remove .venv, build folders and the package's metadata
	rm -rf $(VENV) build dist *.egg-info

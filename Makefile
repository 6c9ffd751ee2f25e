# `make serve` for users, `make quick` and `make test` for contributors.

serve: engine-packages .venv/.have-cpu ## serve the default model (or: make serve ARGS="configs/deepseek-r1-70b.yaml --rehearse")
	@.venv/bin/python tools/foreground.py .venv/bin/raylaunch serve $(ARGS)

quick: quick-packages lint ## lint, types and the tests that need no engine, no Ray and no root: under three minutes
	.venv/bin/python -m pytest $(SPREAD) $(COVERAGE) --cov-fail-under=$(QUICK_FLOOR) --hypothesis-profile=quick -m "$(QUICK)" $(ARGS)

test: suite-needs lint ## install what tests need, and run what CI runs (or: make test ARGS="-m 'not engine'")
	.venv/bin/python -m pytest $(SPREAD) $(COVERAGE) $(ARGS)

test-all: suite-needs lint ## every test, those that CI leaves out included: an hour and a half
	.venv/bin/python -m pytest $(SPREAD) $(COVERAGE) -m "" $(ARGS)

rig: suite-needs ## hosts with sshd and docker in namespaces: up, serve, down and what can go wrong
	.venv/bin/python -m pytest -m rig $(ARGS)

faults: suite-needs ## the complete fault suite, and its table in docs/faults.md
	.venv/bin/python -m pytest -m faults $(ARGS)

# Two processes for the tests that start nothing heavy; the heavy ones share one process (tests/conftest.py).
SPREAD = -n 2 --dist loadgroup --no-loadscope-reorder
COVERAGE = --cov=raylaunch --cov-report=term
QUICK = not engine and not ray and not root and not slow and not whole
# Coverage of `make quick`, percent: it may rise, never fall.
QUICK_FLOOR = 78

lint: .venv/.have-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.have-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Written last by the installer: the next make resumes an install that broke off.
.venv/.have-cpu: pyproject.toml tools/install.py
	@python=$$(tools/find-python) && exec "$$python" tools/install.py cpu

.venv/.have-dev: pyproject.toml tools/install.py
	@python=$$(tools/find-python) && exec "$$python" tools/install.py cpu dev

# command:package or library:package, for tools/system-packages. vLLM's kernels for CPU are linked against libnuma.
ENGINE_PACKAGES = libnuma.so.1:libnuma1
QUICK_PACKAGES = openssl:openssl setpriv:util-linux ssh:openssh-client
SUITE_PACKAGES = \
	$(ENGINE_PACKAGES) \
	$(QUICK_PACKAGES) \
	ip:iproute2 \
	curl:curl \
	chromium:chromium \
	chromedriver:chromium-driver \
	sshd:openssh-server \
	dockerd:docker.io \
	rsync:rsync \
	debootstrap:debootstrap \
	iptables:iptables \
	systemd-analyze:systemd \
	prometheus:prometheus

engine-packages:
	@tools/system-packages $(ENGINE_PACKAGES)

quick-packages:
	@tools/system-packages $(QUICK_PACKAGES)

suite-packages:
	@tools/system-packages $(SUITE_PACKAGES)

suite-needs: # apt and pip at once, each takes minutes on a fresh machine
	@$(MAKE) --no-print-directory --jobs=2 suite-packages .venv/.have-dev

clean: ## everything that make created; models stay in ~/.raylaunch
	rm -rf .venv .cache .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

.PHONY: serve quick test test-all rig faults lint format engine-packages quick-packages suite-packages suite-needs clean

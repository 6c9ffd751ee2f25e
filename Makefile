# The two that matter: `make serve` and `make test`. The rest: lint, format, clean.

serve: engine-packages .venv/.have-cpu ## serve the default model (or: make serve ARGS="configs/deepseek-r1-70b.yaml --rehearse")
	@.venv/bin/python tools/foreground.py .venv/bin/raylaunch serve $(ARGS)

test: engine-packages system-packages lint ## install what tests need, and run them all (or: make test ARGS="-m 'not engine'")
	.venv/bin/python -m pytest $(ARGS)

rig: engine-packages system-packages .venv/.have-dev ## hosts with sshd and docker in namespaces: up, serve, down and what can go wrong
	.venv/bin/python -m pytest -m rig $(ARGS)

faults: engine-packages system-packages .venv/.have-dev ## the whole fault suite, and its table in docs/faults.md
	.venv/bin/python -m pytest -m faults $(ARGS)

lint: .venv/.have-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.have-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Written last by the installer: an install that broke off is taken up by the next make.
.venv/.have-cpu: pyproject.toml tools/install.py
	@python=$$(tools/find-python) && exec "$$python" tools/install.py cpu

.venv/.have-dev: pyproject.toml tools/install.py
	@python=$$(tools/find-python) && exec "$$python" tools/install.py cpu dev

# What vLLM for CPU needs of the system: its kernels are linked against it.
engine-packages:
	@tools/system-packages libnuma.so.1:libnuma1

system-packages:
	@tools/system-packages \
		ip:iproute2 \
		curl:curl \
		chromium:chromium \
		chromedriver:chromium-driver \
		openssl:openssl \
		setpriv:util-linux \
		ssh:openssh-client \
		sshd:openssh-server \
		dockerd:docker.io \
		rsync:rsync \
		debootstrap:debootstrap \
		iptables:iptables \
		systemd-analyze:systemd \
		prometheus:prometheus

clean: ## all that make made; models stay in ~/.raylaunch
	rm -rf .venv .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info

.PHONY: serve test rig faults lint format engine-packages system-packages clean

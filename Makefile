.PHONY: check fast

# The gate, as it runs before a change is taken: a fresh environment, all tests, the wheel.
check:
	.ci/run

# What is worth a look after every edit; leaves out what trains, measures or starts processes.
LONG := benchmark decoder_stage evaluation painting processes readme recipes resume training

fast:
	ruff format --check .
	ruff check .
	pytest -q -n 2 -m "not slow" $(LONG:%=--ignore=tests/test_%.py)

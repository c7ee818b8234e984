.PHONY: check fast

# The gate, as it runs before a change is taken: a fresh environment, all tests, the wheel.
check:
	.ci/run

# What is worth a look after every edit; leaves out what trains, measures or starts processes.
LONG := benchmark benchmark_command continued_runs decoder_stage evaluation evaluation_errors \
	evaluation_runs painting processes readme recipes resume sweep training training_refusals

fast:
	ruff format --check .
	ruff check .
	pytest -q -n 2 -m "not slow" $(LONG:%=--ignore=tests/test_%.py)

.PHONY: check

check:
	.ci/run

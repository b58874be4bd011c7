"""The benchmark: mock provider, load, yardstick, and what each target costs (`python -m bench --help`)."""

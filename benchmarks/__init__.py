"""Scripts behind the measured numbers in the documentation; run each with `python -m`."""

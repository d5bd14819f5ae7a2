"""Which pages are not run on their own."""

# Its examples import the file that its reader writes;
# tests/docs/adding_a_norm_test.py writes it and runs them.
collect_ignore = ["adding_a_norm.md"]

"""Code that several benchmarks share: child processes, HTTP load, command lines, Markdown tables."""

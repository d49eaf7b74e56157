"""Several runs side by side: recipes over seeds, one table, one chart."""

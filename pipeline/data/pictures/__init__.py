"""A folder of pictures as a data set: files are listed, prepared, reported and divided."""

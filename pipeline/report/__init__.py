"""The pictures of a run and the page that contains them."""

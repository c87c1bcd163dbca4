"""Games of other libraries as `Game` and `State`."""

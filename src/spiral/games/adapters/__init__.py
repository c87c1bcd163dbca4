"""Games of other libraries under our protocol."""

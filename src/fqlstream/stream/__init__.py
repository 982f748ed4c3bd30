"""What happens to a batch: pure functions and values, tested without a broker."""

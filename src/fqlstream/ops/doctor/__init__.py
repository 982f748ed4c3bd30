"""One page of truth about a deployment: what is looked at, what was found, what to do."""

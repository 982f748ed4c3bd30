"""How far consumer groups are behind: sampled in one round of requests, judged by rules, reported."""

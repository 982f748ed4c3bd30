"""What runs inside a sandbox. It needs nothing of ours but itself: the sandbox holds no settings and no other part of the product."""

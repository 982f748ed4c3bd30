"""ClickHouse in one process of ours: chDB behind ClickHouse's own HTTP interface."""

"""fqlstream: windowed FQL metrics, from Kafka to ClickHouse."""

"""Reads with kafka-python."""

from kafka import KafkaConsumer, TopicPartition

from readers import Reader

reader = Reader()
settings = {
    "bootstrap_servers": reader.options["bootstrap"].split(","),
    "client_id": reader.name,
    "isolation_level": reader.options["isolation"],
    "auto_offset_reset": "earliest",
    "enable_auto_commit": False,
    "max_partition_fetch_bytes": 16384,
    "max_poll_records": 50,
}
if reader.options["mode"] == "assign":
    consumer = KafkaConsumer(**settings)
    consumer.assign(
        [TopicPartition(topic, number) for topic in reader.topics for number in consumer.partitions_for_topic(topic)]
    )
else:
    consumer = KafkaConsumer(*reader.topics, group_id=reader.name, **settings)
while reader.goes_on():
    for records in consumer.poll(timeout_ms=100).values():
        for record in records:
            reader.take(
                record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
            )
consumer.close()

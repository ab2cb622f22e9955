"""Reads with librdkafka, through confluent-kafka."""

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, TopicPartition

from readers import Reader

reader = Reader()
settings = {
    "bootstrap.servers": reader.options["bootstrap"],
    "client.id": reader.name,
    "group.id": reader.name,
    "isolation.level": reader.options["isolation"],
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "fetch.message.max.bytes": 16384,
    "queued.max.messages.kbytes": 64,
}
if reader.options["mode"] == "consumer":
    settings["group.protocol"] = "consumer"
consumer = Consumer(settings)
if reader.options["mode"] == "assign":
    known = consumer.list_topics(timeout=30).topics
    consumer.assign(
        [TopicPartition(topic, number, OFFSET_BEGINNING) for topic in reader.topics for number in known[topic].partitions]
    )
else:
    consumer.subscribe(reader.topics)
while reader.goes_on():
    message = consumer.poll(0.1)
    if message is None:
        continue
    if message.error():
        raise KafkaException(message.error())
    reader.take(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers(),
    )
consumer.close()

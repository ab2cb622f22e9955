"""Producers of librdkafka, through confluent-kafka, meet a mirror."""

from confluent_kafka import KafkaException, Producer

import refused

for kind in refused.KINDS:
    settings = {"bootstrap.servers": refused.BOOTSTRAP, "enable.idempotence": kind in ("idempotent", "transactional")}
    if kind == "transactional":
        settings["transactional.id"] = "librdkafka-refused"
    if kind == "unacknowledged":
        settings["acks"] = 0
    producer = Producer(settings)

    def send(topic):
        told = []
        try:
            producer.produce(topic, b"a record", partition=0, on_delivery=lambda error, message: told.append(error))
        except KafkaException as failed:
            told.append(failed.args[0])
        producer.flush(30)
        error = told[0] if told else None
        return (error.name(), error.str()) if error else ("", "")

    if kind == "transactional":
        producer.init_transactions(30)
    else:
        send(refused.OTHER)
    refused.meet(kind, producer.begin_transaction, send, producer.abort_transaction, producer.commit_transaction)

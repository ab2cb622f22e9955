"""Producers of kafka-python meet a mirror."""

from kafka import KafkaProducer

import refused

for kind in refused.KINDS:
    settings = {"enable_idempotence": kind in ("idempotent", "transactional")}
    if kind == "transactional":
        settings["transactional_id"] = "kafka-python-refused"
    if kind == "unacknowledged":
        settings["acks"] = 0
    producer = KafkaProducer(bootstrap_servers=refused.BOOTSTRAP.split(","), **settings)

    def send(topic):
        try:
            producer.send(topic, b"a record", partition=0).get(30)
            return "", ""
        except Exception as failed:
            return type(failed).__name__, str(failed)

    if kind == "transactional":
        producer.init_transactions()
    else:
        send(refused.OTHER)
    refused.meet(
        kind, producer.begin_transaction, send, producer.abort_transaction, producer.commit_transaction
    )
    producer.close()

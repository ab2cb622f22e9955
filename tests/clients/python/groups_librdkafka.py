"""Members of groups with librdkafka, through confluent-kafka."""

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

import groups


class Member:
    def __init__(self, group, reset):
        settings = {
            "bootstrap.servers": groups.OPTIONS["bootstrap"],
            "group.id": group,
            "auto.offset.reset": "error" if reset == "none" else reset,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "isolation.level": "read_committed",
            # Tells where it stands at the end of a partition.
            "enable.partition.eof": True,
        }
        if groups.OPTIONS["protocol"] == "consumer":
            settings["group.protocol"] = "consumer"
        else:
            settings["heartbeat.interval.ms"] = 500
        self.consumer = Consumer(settings)
        self.at_end = set()
        self.stored = False
        self.consumer.subscribe(groups.TOPICS, on_revoke=lambda _, places: self.commit())

    def poll(self):
        message = self.consumer.poll(0.05)
        if message is None:
            return
        place = message.topic(), message.partition()
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                raise KafkaException(message.error())
            self.at_end.add(place)
            return
        # With the leader epoch of the record.
        self.consumer.store_offsets(message)
        self.stored = True
        yield *place, message.offset(), message.timestamp()[1], message.value()

    def is_placed(self):
        return len(self.at_end) == groups.PARTITIONS

    def assignment(self):
        return self.consumer.assignment()

    def commit(self):
        if self.stored:
            self.consumer.commit(asynchronous=False)
        self.stored = False

    def committed(self):
        found = self.consumer.committed(self.consumer.assignment(), timeout=30)
        return {(at.topic, at.partition): (at.offset, at.leader_epoch is not None) for at in found}

    def by_time(self, timestamp):
        wanted = [TopicPartition(at.topic, at.partition, timestamp) for at in self.consumer.assignment()]
        return {(at.topic, at.partition): at.offset for at in self.consumer.offsets_for_times(wanted, timeout=30)}

    def seek(self, place, offset):
        if offset >= 0:
            self.consumer.seek(TopicPartition(*place, offset))

    def close(self):
        self.consumer.close()


groups.play(Member)

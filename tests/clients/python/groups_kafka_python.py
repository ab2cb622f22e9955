"""Members of groups with kafka-python."""

from kafka import KafkaConsumer, TopicPartition

import groups


class Member:
    def __init__(self, group, reset):
        self.consumer = KafkaConsumer(
            bootstrap_servers=groups.OPTIONS["bootstrap"].split(","),
            group_id=group,
            auto_offset_reset=reset,
            enable_auto_commit=False,
            isolation_level="read_committed",
            heartbeat_interval_ms=500,
            max_poll_records=10,
        )
        self.consumer.subscribe(groups.TOPICS)

    def poll(self):
        polled = self.consumer.poll(timeout_ms=50)
        for records in polled.values():
            for each in records:
                yield each.topic, each.partition, each.offset, each.timestamp, each.value
        # Its listeners, which hear of a rebalance, cannot.
        if polled and groups.OPTIONS["act"] == "share":
            self.consumer.commit()

    def is_placed(self):
        places = self.consumer.assignment()
        return len(places) == groups.PARTITIONS and all(self.consumer.position(place) is not None for place in places)

    def assignment(self):
        return self.consumer.assignment()

    def commit(self):
        self.consumer.commit()

    def committed(self):
        # Of the same records some commits have an epoch and some have not, at any broker.
        return {tuple(place): (self.consumer.committed(place), None) for place in self.consumer.assignment()}

    def by_time(self, timestamp):
        found = self.consumer.offsets_for_times({place: timestamp for place in self.consumer.assignment()})
        return {tuple(place): at.offset if at else -1 for place, at in found.items()}

    def seek(self, place, offset):
        if offset >= 0:
            self.consumer.seek(TopicPartition(*place), offset)

    def close(self):
        self.consumer.close()


groups.play(Member)

"""What the readers of all Python clients share: arguments, and one JSON line for each record.

Arguments are key=value; programs.rs says what the keys mean."""

import json
import sys
import time


class Reader:
    def __init__(self):
        self.options = dict(word.split("=", 1) for word in sys.argv[1:])
        self.name = self.options["name"]
        self.topics = self.options["topics"].split(",")
        self.pace = int(self.options["pace"]) / 1000
        self.ended = set()

    def goes_on(self):
        return len(self.ended) < int(self.options["partitions"])

    def take(self, topic, partition, offset, timestamp, key, value, headers):
        if self.pace:
            time.sleep(self.pace)
        record = {
            "reader": self.name,
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": timestamp,
            "key": text(key),
            "value": text(value),
            "headers": [[name, text(content)] for name, content in headers or []],
        }
        print(json.dumps(record), flush=True)
        if value == b"end":
            self.ended.add((topic, partition))


def text(content):
    return None if content is None else bytes(content).hex()
